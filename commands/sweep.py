"""Sweeps: a grid of measurements from a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input, warn
from segmeter.commands.options import JsonOpt

if TYPE_CHECKING:
    from segmeter.harness.profiling import Cell
    from segmeter.harness.records import Run


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(sweep)


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML with [grid] and [settings]; see docs/records.md.")],
    out: Annotated[Path, typer.Option(help="Where to write. A folder for the records.")] = Path(
        "results/runs"
    ),
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the plan and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    executor: Annotated[str, typer.Option(metavar="local|ray", help="ray: a running Ray cluster.")] = "local",
    address: Annotated[str, typer.Option(help="With --executor ray: the cluster's address.")] = "auto",
    json: JsonOpt = False,
) -> None:
    """Measure every cell of a grid, a process each; go on after a kill. Exit 1 if a cell failed."""
    from segmeter.harness.profiling import EXECUTORS, check_cells, finished, read_plan, run_sweep
    from segmeter.harness.records import check_folder
    from segmeter.words import nearest

    with user_input():
        if executor not in EXECUTORS:
            raise ValueError(f"unknown executor {executor!r}{nearest(executor, EXECUTORS)}")
        plan = read_plan(file)
        check_cells(plan)
        check_folder(out)
    done = {cell.id: finished(cell, out) for cell in plan.cells}
    if not json:
        for cell in plan.cells:
            run = done[cell.id]
            show(f"{run.status if run else 'to do':<14}{cell.text}")
        left = sum(run is None or (retry_failed and run.status != "ok") for run in done.values())
        show(f"{len(plan.cells)} cells, {left} to run, records in {out}")
    if plan_only:
        return

    with progress_bar("sweep", len(plan.cells)) as advance, user_input():

        def tell(cell: "Cell", run: "Run") -> None:
            advance(cell.text)
            if run.status != "ok":
                warn(f"{cell.text}: {run.status}: {run.error}")

        if executor == "ray":
            from segmeter.harness.profiling import run_on_ray

            runs = run_on_ray(plan, out, tell, retry_failed, address)
        else:
            runs = run_sweep(plan, out, tell, retry_failed)
    failed = [run for run in runs if run.status != "ok"]
    if json:
        show_json({"runs": [run.content() for run in runs]})
    else:
        show(f"{len(runs) - len(failed)} of {len(runs)} cells measured")
    if failed:
        raise typer.Exit(EXIT_FAILED)

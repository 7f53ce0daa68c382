"""Records on disk: list, show, diff, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmeter.commands.console import EXIT_FAILED, show, show_json, user_input, warn, whole_record
from segmeter.commands.groups import CommandGroup
from segmeter.commands.options import JsonOpt

if TYPE_CHECKING:
    from segmeter.harness.records import Run

FolderOpt = Annotated[Path, typer.Option("--from", help="Folder of records.")]
IdArg = Annotated[str, typer.Argument(help="Id, the start of one, or a file.")]
DEFAULT = Path("results/runs")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    group = typer.Typer(
        help="Records of measurements: list, show, diff, export.", cls=CommandGroup, no_args_is_help=True
    )
    group.command("list")(list_records)
    group.command("show")(show_record)
    group.command("diff")(diff)
    group.command("export")(export_records)
    app.add_typer(group, name="results")


def _read(folder: Path) -> "list[Run]":
    from segmeter.harness.records import read_runs

    with user_input():
        runs, damaged = read_runs(folder)
    for file in damaged:
        warn(f"skipped {file.path}: {file.reason}")
    return runs


def list_records(
    folder: FolderOpt = DEFAULT,
    last: Annotated[int, typer.Option(min=1, help="Show the newest N; --json has all.")] = 100,
    json: JsonOpt = False,
) -> None:
    """One line a record, oldest first; damaged files are named on stderr."""
    runs = _read(folder)
    if json:
        return show_json({"runs": [run.content() for run in runs]})
    from segmeter.reports.text.profile import runs_table

    show(runs_table([run.content() for run in runs[-last:]], str(folder)))
    if len(runs) > last:
        show(f"the newest {last} of {len(runs)} records; --last shows more")


def show_record(record: IdArg, folder: FolderOpt = DEFAULT, json: JsonOpt = False) -> None:
    """One record in full."""
    from segmeter.harness.records import find_run

    with user_input():
        run = find_run(folder, record)
    content = run.content()
    if json or run.status != "ok":
        return show_json(content)
    from segmeter.reports.text.profile import component_tables, latency_table, notes, ratio_lines

    with user_input(), whole_record(run.id):
        parts = [
            *ratio_lines([content]),
            latency_table([content]),
            *component_tables(content),
            *notes(content),
        ]
    show(*parts)


def diff(first: IdArg, second: IdArg, folder: FolderOpt = DEFAULT, json: JsonOpt = False) -> None:
    """Where two records differ: settings, environment, figures. Exit 1 if the environments do."""
    from segmeter.harness.records import differences, environment_differences, find_run

    with user_input():
        a, b = find_run(folder, first), find_run(folder, second)
    found: dict[str, list[object]] = {}
    for part in ("settings", "figures", "statistics"):
        found |= differences(getattr(a, part), getattr(b, part), part)
    machines = {f"environment.{key}": pair for key, pair in environment_differences(a, b).items()}
    if json:
        show_json({"differences": found | machines, "same_environment": not machines})
    else:
        from segmeter.reports.text.profile import difference_table

        show(difference_table(found | machines, a.id, b.id))
        show(
            "environments differ: do not read the ratio as one of models" if machines else "same environment"
        )
    if machines:
        raise typer.Exit(EXIT_FAILED)


def export_records(
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format: Annotated[
        str, typer.Option(metavar="csv|parquet|json", help="Form of the output. parquet needs pyarrow.")
    ] = "csv",
    folder: FolderOpt = DEFAULT,
    json: JsonOpt = False,
) -> None:
    """Write the records as one table."""
    from segmeter.harness.records import export

    runs = _read(folder)
    with user_input():
        export(runs, format, out)
    if json:
        return show_json({"records": len(runs), "format": format, "written": str(out)})
    show(f"{len(runs)} records in {out}")

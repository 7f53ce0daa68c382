"""The gate: check models against their budgets, and write the baseline they are compared with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmeter.commands.console import EXIT_FAILED, show_json, user_input, warn
from segmeter.commands.groups import CommandGroup
from segmeter.commands.options import JsonOpt, RenamedCommand, VerboseOpt
from segmeter.commands.written import check_model, check_size
from segmeter.model_text import relative_source

if TYPE_CHECKING:
    from segmeter.harness.gate import Budgets, Snapshot

DEFAULT_BUDGETS = Path("budgets.toml")
BudgetsArg = Annotated[Path, typer.Argument(help="Budget file (TOML): models, sizes and limits.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(cls=RenamedCommand)(check)
    baseline = typer.Typer(
        help="The figures that `check` compares with.", cls=CommandGroup, no_args_is_help=True
    )
    baseline.command("update", cls=RenamedCommand)(update)
    app.add_typer(baseline, name="baseline")

    # A group of one command must stay a group.
    @baseline.callback()
    def _group() -> None:
        """The figures that `check` compares with."""


def check(
    budgets: BudgetsArg = DEFAULT_BUDGETS,
    baseline: Annotated[
        str | None, typer.Option(help="FILE or git:REV; default: the file that the budget file names.")
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="text|json|junit|github|markdown|sarif", help="Form of the output.")
    ] = "text",
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: to the terminal.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Append the Markdown report there too, e.g. $GITHUB_STEP_SUMMARY.")
    ] = None,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Fail if a model costs more than its budget: exit 0 within, 1 over, 2 misuse."""
    with user_input():
        from segmeter.reports.text.gate_ci import FORMATS, rendered
        from segmeter.words import nearest

        if json and format not in ("text", "json"):
            raise ValueError(f"give --format {format} or --json, not both")
        format = "json" if json else format
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}{nearest(format, FORMATS)}")
        read = _checked_budgets(budgets)
        known, against = _baseline(read, baseline)
        from segmeter.harness.gate import PREFIX, check_record, measure

        same = not (baseline or "").startswith(PREFIX)
        record = check_record(read, measure(read), known, against, same)
        text = rendered(record, format)
        if out is None:
            sys.stdout.write(text)
        else:
            from segmeter.harness.records import write_text

            write_text(out, text)
        if summary is not None:
            try:
                with summary.open("a", encoding="utf-8") as file:
                    file.write(rendered(record, "markdown"))
            except OSError as error:
                raise ValueError(f"cannot write {summary}: {error.strerror or error}") from None
    if not record["passed"]:
        raise typer.Exit(EXIT_FAILED)


def update(
    budgets: BudgetsArg = DEFAULT_BUDGETS,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. Default: the baseline that the budget file names.")
    ] = None,
    skip_failing: Annotated[
        bool, typer.Option(help="Leave out models that cannot be counted, with a warning.")
    ] = False,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Count the models of a budget file and write them down as the new baseline."""
    with user_input():
        read = _checked_budgets(budgets, not skip_failing)
        from segmeter.harness.gate import measure_one, write_baseline

        target = out or read.baseline
        if target is None:
            raise ValueError(f'{budgets} names no baseline; add baseline = "baseline.json" or give --out')
        found = {}
        left_out = []
        for model in read.models:
            try:
                found[model.name] = measure_one(model, budgets.parent).snapshot
            except ValueError as error:
                if not skip_failing:
                    raise
                left_out.append(model.name)
                warn(f"left out: {error}")
        write_baseline(target, found)
    if json:
        figures = {
            name: {
                key: getattr(snapshot, key) for key in ("convention", "total", "params", "activation_bytes")
            }
            for name, snapshot in found.items()
        }
        return show_json({"baseline": str(target), "models": figures, "left_out": left_out})
    sys.stdout.write(f"{target}: {len(found)} models\n")


def _checked_budgets(path: Path, all_models: bool = True) -> "Budgets":
    """The budget file, whose models and sizes are looked at before anything is loaded."""
    from segmeter.harness.gate import read_budgets
    from segmeter.harness.inputs import parse_size

    read = read_budgets(path)
    for model in read.models if all_models else ():
        try:
            text = relative_source(model.model, path.parent)
            check_model(text)
            check_size(text, parse_size(model.size))
        except ValueError as error:
            raise ValueError(f"models.{model.name}: {error}") from error
    return read


def _baseline(read: "Budgets", given: str | None) -> tuple["dict[str, Snapshot] | None", str]:
    """The snapshots to compare with, and what they are in words."""
    from segmeter.harness.gate import PREFIX, read_baseline, revision_baseline

    if given is not None and given.startswith(PREFIX):
        return revision_baseline(given.removeprefix(PREFIX), read.path), given
    path = Path(given) if given is not None else read.baseline
    if path is None:
        free = [model.name for model in read.models if not model.limits]
        if free:
            raise ValueError(
                f"{read.path}: nothing to hold {', '.join(free)} to: give [models.{free[0]}.limits], "
                "or a baseline (file or git:REV)"
            )
        return None, "absolute limits"
    known = read_baseline(path)
    missing = [model.name for model in read.models if model.name not in known]
    if missing:
        raise ValueError(f"baseline {path} lacks {', '.join(missing)}; run `segmeter baseline update`")
    return known, str(path)

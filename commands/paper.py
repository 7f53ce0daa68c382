"""A paper's numbers: macros, tables and figures from counts and records, and the text held to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input
from segmeter.commands.options import JsonOpt, VerboseOpt

# An option that is a file -> its name in the TOML.
FILES = {"add": "add", "from": "records"}

if TYPE_CHECKING:
    from segmeter.commands.figures import Choice
    from segmeter.harness.paper import Plan


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(paper)


def paper(
    numbers: Annotated[Path, typer.Argument(help="TOML: which figures come from where; docs/paper.md.")],
    check: Annotated[
        Path | None, typer.Option(help="Hold this LaTeX file, with what it includes, to the numbers.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. A folder; default: beside the TOML.")
    ] = None,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Write a paper's macros, tables and figures; with --check exit 1 if its text no longer agrees."""
    with user_input():
        from segmeter.harness.paper import read_plan

        plan = read_plan(numbers)
        folder = out or plan.folder
        from segmeter.harness.paper import paper_values

        steps = len(plan.numbers) + len(plan.tables) + len(plan.figures)
        chosen = _chosen(plan)
        with progress_bar("counting", steps) as advance:
            record = paper_values(plan, advance)
        drawn = _drawn(plan, chosen, record)
        texts = _texts(plan, record, folder)
        if check is not None:
            return _check(plan, record, texts, check, folder / plan.macro_file, json)
        files = _write(drawn, texts, folder)
    if json:
        return show_json({**record, "files": [str(file) for file in files]})
    from segmeter.reports.text.latex import numbers_table

    show(numbers_table(record), "written:", *(f"  {file}" for file in files))


def _chosen(plan: "Plan") -> dict[str, "Choice"]:
    """Each figure's choice, so that what is wrong with one is said before anything is counted."""
    from segmeter.commands.figures import choose

    found = {}
    for figure in plan.figures:
        options = figure.options
        lists = {name: [options[name]] for name in ("backbone", "paper") if name in options}
        paths = {name: plan.folder / options[of] for name, of in FILES.items() if of in options}
        # A breakdown's models are counted as the plan says.
        models = {} if figure.kind == "breakdown" else {"model": list(figure.models)}
        try:
            plain = {name: options[name] for name in options if name in ("x", "y", "gflops", "dataset")}
            found[figure.key] = choose(figure.kind, {**plain, **lists, **paths, **models})
        except ValueError as error:
            raise ValueError(f"{plan.path}, figures.{figure.key}: {error}") from None
    return found


def _drawn(plan: "Plan", chosen: Mapping[str, "Choice"], record: Any) -> dict[str, Any]:
    """The figures; the record is told what each shows."""
    from segmeter.commands.figures import draw
    from segmeter.reports.plots.named import breakdown_picture

    drawn = {}
    for key, choice in chosen.items():
        told = record["figures"][key]
        try:
            if choice.kind == "breakdown":
                drawn[key], told["shows"] = breakdown_picture(told["records"])
            else:
                drawn[key], told["shows"], told["data"] = draw(choice)
        except (ValueError, OSError) as error:
            raise ValueError(f"{plan.path}, figures.{key}: {error}") from None
    return drawn


def _texts(plan: "Plan", record: Any, folder: Path) -> dict[Path, str]:
    """What every text file holds."""
    from segmeter.files import inside
    from segmeter.reports.text.latex import figure_text, macros_text, table_text

    texts = {folder / plan.macro_file: macros_text(record, plan.path.name)}
    for key, table in record["tables"].items():
        texts[inside(folder, f"table-{key}.tex")] = table_text(table)
    for key, figure in record["figures"].items():
        texts[inside(folder, f"figure-{key}.tex")] = figure_text(key, figure)
    return texts


def _write(drawn: Mapping[str, Any], texts: dict[Path, str], folder: Path) -> list[Path]:
    from segmeter.files import inside, prepare_folder
    from segmeter.harness.records import write_bytes, write_text
    from segmeter.reports.plots.breakdown import figure_bytes

    pictures = {
        inside(folder, f"figure-{key}.pdf"): figure_bytes(figure, "pdf", f"segmeter: {key}")
        for key, figure in drawn.items()
    }
    prepare_folder(folder)
    for path, text in texts.items():
        write_text(path, text)
    for path, content in pictures.items():
        write_bytes(path, content)
    return [*texts, *pictures]


def _check(
    plan: "Plan", record: Any, texts: dict[Path, str], main: Path, macro_file: Path, json: bool
) -> None:
    from segmeter.harness.paper import check_paper
    from segmeter.reports.text.latex import check_lines

    found = check_paper(main, record["numbers"], texts, macro_file, plan.prefix)
    if json:
        show_json(found)
    else:
        show(*check_lines(found))
    if found["findings"]:
        raise typer.Exit(EXIT_FAILED)

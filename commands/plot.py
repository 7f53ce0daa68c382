"""Figures and tables of the paper's kind: plot, table."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.early import PICTURES
from segmeter.commands.figures import choose, draw, one_of
from segmeter.commands.options import JsonOpt, VerboseOpt


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(plot)
    app.command()(table)


def plot(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="breakdown, circles, configurations, lpe, stages, backbones, pareto, resolution, layers, "
            "not-counted or realised."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Your own models or encoders, e.g. mine.py:MyEncoder, or systems."),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            metavar="gflops-total|gflops-encoder|fps|latency",
            help="What the x axis shows. Default: gflops-total; gflops-encoder with one --backbone.",
        ),
    ] = None,
    y: Annotated[str | None, typer.Option(metavar="pq|miou|ap", help="What the y axis shows.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set. coco or cityscapes; default coco.")] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="A backbone, see `segmeter models`. May be repeated for pareto; default there: all."
        ),
    ] = None,
    paper: Annotated[
        list[str] | None,
        typer.Option(help="Whose figures. May be repeated, or all; default pro-scale."),
    ] = None,
    gflops: Annotated[
        str | None,
        typer.Option(
            metavar="measured|published|both",
            help="Whose GFLOPs: measured at one size (default), as printed, or both.",
        ),
    ] = None,
    add: Annotated[
        Path | None, typer.Option(help="CSV of your own points; docs/figures.md has its columns.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of records. Of time and quality, with its subfolders."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write. A .pdf, .svg or .png file, or a folder.")] = Path(
        "results/latest"
    ),
    dark: Annotated[
        bool, typer.Option("--dark", help="For a dark ground; as NAME-dark in a folder.")
    ] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = False,
) -> None:
    """Draw a figure from published, measured and your own points."""
    given = {"x": x, "y": y, "gflops": gflops, "paper": paper, "add": add, "dataset": dataset}
    given |= {"backbone": backbone, "from": records, "model": models}
    with user_input():
        chosen = choose(kind, given)
        _check_out(out)
        figure, caption, data = draw(chosen)
        if dark:
            from segmeter.reports.plots.common import darkened

            figure = darkened(figure)
        files = _write(figure, out, f"{chosen.name}-dark" if dark else chosen.name)
        _tell_boxes(figure, files)
    if json:
        return show_json({"kind": kind, "caption": caption, "files": [str(f) for f in files], "data": data})
    show(caption, "written:", *(f"  {path}" for path in files))


def _check_out(out: Path) -> None:
    if out.suffix and not out.is_dir() and out.suffix not in PICTURES:
        raise ValueError(f"cannot draw into {out}: expected a folder or a file in {', '.join(PICTURES)}")


def _tell_boxes(figure: Any, files: list[Path]) -> None:
    """Say which letters of names the pictures' font lacks."""
    from matplotlib.text import Text

    from segmeter.reports.plots.style import missing_letters

    lacking = missing_letters(text.get_text() for text in figure.findobj(Text))
    if lacking and any(path.suffix != ".svg" for path in files):
        warn(f"boxes stand for letters that the figures' font lacks: {lacking}; an .svg has them all")


def _write(figure: Any, out: Path, name: str) -> list[Path]:
    """Write the file asked for, or all three formats into a folder."""
    from segmeter.files import prepare_folder
    from segmeter.harness.records import write_bytes
    from segmeter.reports.plots.breakdown import figure_bytes

    to_file = bool(out.suffix) and not out.is_dir()
    folder = out.parent if to_file else out
    files = [out] if to_file else [folder / f"{name}{suffix}" for suffix in PICTURES]
    contents = [figure_bytes(figure, path.suffix[1:], f"segmeter: {name}") for path in files]
    prepare_folder(folder)
    for path, content in zip(files, contents, strict=True):
        write_bytes(path, content)
    return files


def table(
    number: Annotated[str | None, typer.Argument(metavar="TABLE", help="1 to 11, 15 or 16.")] = None,
    format: Annotated[
        str, typer.Option(metavar="text|md|csv|latex|html", help="Form of the output.")
    ] = "text",
    out: Annotated[
        Path | None, typer.Option(help="Where to write. A file; default: to the terminal.")
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Print one of the PRO-SCALE paper's tables with measured GFLOPs beside the printed ones."""
    with user_input():
        from segmeter.harness.audit import find_table, known_tables
        from segmeter.reports.text.paper_tables import FORMATS, render, terminal_table

        if number is None:
            raise ValueError(f"no table given; choose from {known_tables()}")
        chosen = find_table(number)
        one_of("--format", format, FORMATS)
        if out is not None and format == "text":
            raise ValueError("--out needs --format md, csv, latex or html")
        if out is not None and json:
            raise ValueError("--json prints; it does not go with --out")
    from segmeter.harness.audit import table_data

    with progress_bar(f"measuring table {chosen}", 2) as advance:
        data = table_data(chosen, advance)
    if json:
        return show_json(data)
    if format == "text":
        return show(terminal_table(data), data["method"])
    text = render(data, format)
    if out is None:
        sys.stdout.write(text)
        return
    from segmeter.files import prepare_folder
    from segmeter.harness.records import write_text

    with user_input():
        prepare_folder(out.parent)
        write_text(out, text)
    show(f"written: {out}")

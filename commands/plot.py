"""Figures and tables of the paper's kind: plot, table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.options import JsonOpt, VerboseOpt

PICTURES = (".pdf", ".svg", ".png")
# Option -> the kinds it goes with; the others would pass over it in silence.
GOES_WITH = {
    "x": ("pareto",),
    "y": ("pareto",),
    "gflops": ("pareto",),
    "paper": ("pareto",),
    "add": ("pareto",),
    "dataset": ("pareto", "circles"),
    "backbone": (
        *("pareto", "breakdown", "circles", "configurations", "stages"),
        *("lpe", "resolution", "layers", "not-counted", "realised"),
    ),
    "from": ("pareto", "realised"),
    "model": ("pareto", "breakdown", "resolution", "not-counted"),
}
X = {
    "gflops-encoder": "gflops_encoder",
    "gflops-total": "gflops_total",
    "fps": "fps",
    "latency": "latency_ms",
}
Y = ("pq", "miou", "ap")
DEFAULT_RECORDS = Path("results")
GFLOPS = ("measured", "published", "both")


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
        _check_kind(kind, given)
        assert kind is not None
        chosen = _Choice(
            kind=kind,
            x=_one_of("--x", (x or _default_cost(backbone or [])).replace("_", "-"), list(X)),
            y=_one_of("--y", y or "pq", Y),
            dataset=dataset or "coco",
            backbones=backbone or [],
            papers=paper or ["pro-scale"],
            gflops=_one_of("--gflops", gflops or "measured", GFLOPS),
            models=models or [],
            add=add,
            records=records,
        )
        _check_out(out)
        figure, caption, data = _draw(chosen)
        if dark:
            from segmeter.reports.plots.common import darkened

            figure = darkened(figure)
        files = _write(figure, out, f"{chosen.name}-dark" if dark else chosen.name)
    if json:
        return show_json({"kind": kind, "caption": caption, "files": [str(f) for f in files], "data": data})
    show(caption, "written:", *(f"  {path}" for path in files))


def _default_cost(backbones: Sequence[str]) -> str:
    """Encoders are compared on one backbone; where backbones differ, what they cost belongs in the figure."""
    return "gflops-encoder" if len(backbones) == 1 else "gflops-total"


@dataclass(frozen=True)
class _Choice:
    """What was asked for, checked."""

    kind: str
    x: str
    y: str
    dataset: str
    backbones: Sequence[str]
    papers: Sequence[str]
    gflops: str
    models: Sequence[str]
    add: Path | None
    records: Path | None

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"pareto-{self.x}-{self.y}-{self.dataset}" if self.kind == "pareto" else self.kind

    @property
    def backbone(self) -> str:
        """The one backbone of a kind that has one.

        Raises:
            ValueError: several, or one that is not known.
        """
        from segmeter.encoders.backbones.table import check_backbone
        from segmeter.encoders.systems.table import SYSTEMS
        from segmeter.model_text import ModelText

        if len(self.backbones) > 1:
            raise ValueError(f"{self.kind} takes one --backbone, got {' and '.join(self.backbones)}")
        if self.backbones:
            check_backbone(self.backbones[0])
        if self.backbones:
            return self.backbones[0]
        # The encoders beside a model of one's own are on its backbone, if it names one that they take.
        written = [ModelText.named(model) for model in self.models]
        named = {
            one.backbone for one in written if one.name not in SYSTEMS or SYSTEMS[one.name].backbones is None
        }
        named -= {""}
        return named.pop() if len(named) == 1 else "swin-t"


def _check_kind(kind: str | None, given: dict[str, Any]) -> None:
    from segmeter.reports.plots.named import KINDS
    from segmeter.words import nearest

    if kind is None:
        raise ValueError(f"no kind of figure given; choose from {', '.join(KINDS)}")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of figure {kind!r}{nearest(kind, list(KINDS))}")
    for option, value in given.items():
        if value and kind not in GOES_WITH[option]:
            name = "a MODEL" if option == "model" else f"--{option}"
            raise ValueError(f"{name} does not go with {kind}, only with {', '.join(GOES_WITH[option])}")


def _one_of(option: str, value: str, choices: Sequence[str]) -> str:
    from segmeter.words import nearest

    if value not in choices:
        raise ValueError(f"unknown {option} {value!r}{nearest(value, choices)}")
    return value


def _draw(choice: _Choice) -> tuple[Any, str, Any]:
    """Figure, caption, and the data that were drawn."""
    from segmeter.harness import tradeoff as data
    from segmeter.reports.plots import named as figures

    kind = choice.kind
    if kind == "pareto":
        return _draw_pareto(choice)
    found: Any
    if kind in ("circles", "configurations", "stages", "backbones", "lpe"):
        points = data.points_data(None, None, ())
    if kind == "breakdown":
        found = data.breakdown_data(choice.backbone, choice.models)
        figure, caption = figures.breakdown_picture(found)
    elif kind == "circles":
        found = points
        figure, caption = figures.circles_figure(points, choice.dataset, choice.backbone)
    elif kind == "configurations":
        found = points
        figure, caption = figures.configurations_figure(points, choice.backbone)
    elif kind == "stages":
        found = points
        figure, caption = figures.stages_figure(points, choice.backbone)
    elif kind == "backbones":
        found = points
        figure, caption = figures.backbones_figure(points)
    elif kind == "lpe":
        found = data.lpe_data(choice.backbone)
        figure, caption = figures.lpe_figure(found, points)
    elif kind == "resolution":
        found = data.resolution_data(choice.backbone, choice.models)
        figure, caption = figures.resolution_figure(found)
    elif kind == "layers":
        found = data.layers_data(choice.backbone)
        figure, caption = figures.layers_figure(found)
    elif kind == "not-counted":
        found = data.not_counted_data(choice.backbone, choice.models)
        figure, caption = figures.not_counted_figure(found)
    else:
        folder = _records(choice.records or (DEFAULT_RECORDS if DEFAULT_RECORDS.is_dir() else None))
        found = data.realised_data(folder)
        figure, caption = figures.realised_figure(found, choice.backbone if choice.backbones else None)
    return figure, caption, found


def _draw_pareto(choice: _Choice) -> tuple[Any, str, Any]:
    from segmeter.harness.tradeoff import points_data
    from segmeter.reports.plots.tradeoff import fronts, pareto_figure, select

    x, y = X[choice.x], choice.y
    backbone = choice.backbones[0] if len(choice.backbones) == 1 else "swin-t"
    points = points_data(_records(choice.records), choice.add, choice.models, backbone)
    for option, key, values in (
        ("--dataset", "dataset", [choice.dataset]),
        ("--backbone", "backbone", choice.backbones),
        ("--paper", "paper", [p for p in choice.papers if p != "all"]),
    ):
        for value in values:
            _one_of(option, value, sorted({p[key] for p in points if p[key]}))
    papers = () if "all" in choice.papers else choice.papers
    shown = select(points, x, y, choice.dataset, choice.backbones, papers, choice.gflops)
    unscored = [
        p
        for p in points
        if p["source"] == "own" and p[y] is None and p[x] is not None and p["dataset"] == choice.dataset
    ]
    figure, caption = pareto_figure(shown, x, y, unscored)
    best = {id(p) for group in fronts(shown, x, y).values() for p in group}
    return figure, caption, [{**p, "on_front": id(p) in best} for p in [*shown, *unscored]]


def _records(folder: Path | None) -> Path | None:
    """The folder of records, its damaged files named."""
    from segmeter.harness.tradeoff import read_records

    if folder is not None:
        for damaged in read_records(folder).damaged:
            warn(f"passed over {damaged.path}: {damaged.reason}")
    return folder


def _check_out(out: Path) -> None:
    if out.suffix and not out.is_dir() and out.suffix not in PICTURES:
        raise ValueError(f"cannot draw into {out}: expected a folder or a file in {', '.join(PICTURES)}")


def _write(figure: Any, out: Path, name: str) -> list[Path]:
    """Write the file asked for, or all three formats into a folder."""
    from segmeter.files import prepare_folder
    from segmeter.harness.records import write_bytes
    from segmeter.reports.plots.breakdown import figure_bytes

    to_file = bool(out.suffix) and not out.is_dir()
    folder = out.parent if to_file else out
    files = [out] if to_file else [folder / f"{name}{suffix}" for suffix in PICTURES]
    contents = [figure_bytes(figure, path.suffix[1:]) for path in files]
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
        _one_of("--format", format, FORMATS)
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

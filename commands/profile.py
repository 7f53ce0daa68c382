"""Measuring: latency, memory and energy of models beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.asked import chosen_classes, chosen_sizes, chosen_spec, sizes_of
from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input, warn
from segmeter.commands.grouped import grouped
from segmeter.commands.known import known
from segmeter.commands.options import (
    MODEL_SYNTAX,
    DeviceOpt,
    DtypeOpt,
    Heads,
    ImagesOpt,
    InputOpt,
    InputSize,
    JsonOpt,
    VerboseOpt,
    precision,
)
from segmeter.commands.written import check_model

if TYPE_CHECKING:
    from segmeter.harness.inputs import Size
    from segmeter.harness.models import ModelSpec
    from segmeter.harness.profiling import Settings
    from segmeter.harness.records import Run

DEFAULT_SIZE = "512x1024"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(profile)


@dataclass(frozen=True)
class Where:
    """Where the models run, in what precision, how many images at a time."""

    device: DeviceOpt = "cpu"
    dtype: DtypeOpt = "fp32"
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1


@dataclass(frozen=True)
class How:
    """How long they are timed, and in what."""

    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's choice.")] = None
    seconds: Annotated[float, typer.Option(help="Time for the rounds of all models together.")] = 30.0
    width: Annotated[
        float, typer.Option(help="Stop once each interval is narrower than this share of its median.")
    ] = 0.01
    min_rounds: Annotated[int, typer.Option(help="Fewest rounds, whatever the time.")] = 5
    compile: Annotated[bool, typer.Option("--compile", help="Time under torch.compile.")] = False
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="eager|compile|onnxruntime|openvino",
            help="What the models run in. May be repeated: each model is timed under each, in turn.",
        ),
    ] = None
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Time replays of a CUDA graph.")] = False
    keep_memory: Annotated[
        bool,
        typer.Option(
            "--keep-memory",
            help="On a CPU: keep freed memory, instead of new pages from the kernel each call.",
        ),
    ] = False
    images: ImagesOpt = None
    depth: Annotated[int, typer.Option(min=1, help="Levels of components.")] = 2


@grouped
def profile(
    *,
    model: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_SYNTAX)],
    where: Where,
    padded_size: Annotated[
        str | None,
        typer.Option(
            help="HxW that the network sees. Default: a library's model's own, else 512x1024, a quarter of "
            "the pixels that flops counts at."
        ),
    ] = None,
    input: InputOpt = None,
    heads: Heads,
    how: How,
    out: Annotated[Path, typer.Option(help="Where to write. A folder for the records.")] = Path(
        "results/runs"
    ),
    roofline: Annotated[Path | None, typer.Option(help="Draw the roofline: .pdf, .svg or .png.")] = None,
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Measure models in turn: latency per component, memory, energy, ratios with intervals."""
    with user_input():
        # Before torch is loaded: a typo is answered at once.
        where = replace(where, dtype=precision(where.dtype, known()["dtypes"]))
        for text in model:
            check_model(text)
    with user_input():
        specs, padded = _at_one_size(model, padded_size, heads, input)
        settings = _settings(padded, where, how)
        if roofline is not None and roofline.suffix not in (".pdf", ".svg", ".png"):
            raise ValueError(f"--roofline must end in .pdf, .svg or .png, got {roofline.name!r}")
        from segmeter.harness.records import check_folder, save

        check_folder(out)
        runs = _measured(specs, settings)
    records = [run.content() for run in runs]
    if json:
        show_json({"runs": records})
    else:
        from segmeter.reports.text.profile import component_tables, latency_table, notes, ratio_lines

        show(*ratio_lines(records), latency_table(records))
        noted = [notes(record) for record in records]
        # How all were measured, and on what, is said once.
        shared = [line for line in noted[0] if all(line in lines for lines in noted)]
        for record, lines in zip(records, noted, strict=True):
            tables = component_tables(record) if record["components"] else ()
            show(*tables, *(line for line in lines if line not in shared))
        show(*shared)
    # Printed before they are written: a full disk does not take the figures along.
    with user_input():
        paths = [save(run, out) for run in runs]
        if roofline is not None:
            _draw(roofline, records)
    if not json:
        show(*(f"record      {path}" for path in paths))


def _at_one_size(
    models: Sequence[str], padded_size: str | None, heads: Heads, inputs: list[str] | None
) -> "tuple[list[ModelSpec], Size]":
    """The models, and the one padded size (H, W) that all of them are measured at."""
    from segmeter.harness.counting import check_size

    sizes = chosen_sizes(InputSize(padded_size or DEFAULT_SIZE))
    classes = chosen_classes(heads.num_classes, sizes, models[0] if models else None)
    specs = [
        chosen_spec(text, None, heads.backbone, classes, heads.num_queries, inputs=inputs) for text in models
    ]
    own = [sizes_of(spec, sizes, InputSize(padded_size)) for spec in specs]
    sizes = own[0]
    for spec, other in zip(specs, own, strict=True):
        if other.images != sizes.images:
            made_for = f"{specs[0].title} is made for {sizes.name}, {spec.title} for {other.name}"
            raise ValueError(f"{made_for}; give --padded-size to measure them at one size")
        check_size(spec, next(iter(sizes.images)).padded)
    return specs, next(iter(sizes.images)).padded


def _settings(padded: "Size", where: Where, how: How) -> "Settings":
    from segmeter.harness.profiling import Plan, Settings

    return Settings(
        padded_size=padded,
        device=where.device,
        dtype=where.dtype,
        batch=where.batch,
        threads=how.threads,
        compile=how.compile,
        runtimes=tuple(how.runtime or ()),
        cuda_graph=how.cuda_graph,
        keep_memory=how.keep_memory,
        images=tuple(how.images or ()),
        depth=how.depth,
        plan=Plan(how.seconds, how.min_rounds, max(1000, how.min_rounds), how.width),
    )


def _measured(specs: "Sequence[ModelSpec]", settings: "Settings") -> "list[Run]":
    from segmeter.harness.profiling import OutOfMemory
    from segmeter.harness.profiling import profile as measure

    try:
        with progress_bar("profiling", 2 * len(specs) * len(settings.chosen_runtimes) + 2) as advance:
            return measure(specs, settings, advance)
    except OutOfMemory as error:
        warn(str(error))
        raise typer.Exit(EXIT_FAILED) from None


def _draw(path: Path, records: "list[dict[str, Any]]") -> None:
    """Draw the roofline."""
    from segmeter.harness.records import write_bytes
    from segmeter.reports.plots.breakdown import figure_bytes
    from segmeter.reports.plots.roofline import roofline_figure

    write_bytes(path, figure_bytes(roofline_figure(records), path.suffix[1:]))

"""Measuring: latency, memory and energy of models beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.console import EXIT_FAILED, progress_bar, show, show_json, user_input, warn
from segmeter.commands.known import check_model, known
from segmeter.commands.options import (
    MODEL_SYNTAX,
    BackboneOpt,
    ClassesOpt,
    DeviceOpt,
    DtypeOpt,
    ImagesOpt,
    InputOpt,
    JsonOpt,
    QueriesOpt,
    VerboseOpt,
    chosen_classes,
    chosen_sizes,
    chosen_spec,
    precision,
    sizes_of,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(profile)


def profile(
    model: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_SYNTAX)],
    device: DeviceOpt = "cpu",
    dtype: DtypeOpt = "fp32",
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    padded_size: Annotated[
        str | None,
        typer.Option(
            help="HxW that the network sees. Default: a library's model's own, else 512x1024, a quarter of "
            "the pixels that flops counts at."
        ),
    ] = None,
    input: InputOpt = None,
    backbone: BackboneOpt = None,
    num_classes: ClassesOpt = None,
    num_queries: QueriesOpt = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's choice.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for the rounds of all models together.")] = 30.0,
    width: Annotated[
        float, typer.Option(help="Stop once each interval is narrower than this share of its median.")
    ] = 0.01,
    min_rounds: Annotated[int, typer.Option(help="Fewest rounds, whatever the time.")] = 5,
    compile: Annotated[bool, typer.Option("--compile", help="Time under torch.compile.")] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="eager|compile|onnxruntime|openvino",
            help="What the models run in. May be repeated: each model is timed under each, in turn.",
        ),
    ] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Time replays of a CUDA graph.")] = False,
    keep_memory: Annotated[
        bool,
        typer.Option(
            "--keep-memory",
            help="On a CPU: keep freed memory, instead of new pages from the kernel each call.",
        ),
    ] = False,
    images: ImagesOpt = None,
    depth: Annotated[int, typer.Option(min=1, help="Levels of components.")] = 2,
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
        dtype = precision(dtype, known()["dtypes"])
        for text in model:
            check_model(text)
    from segmeter.harness.counting import check_size
    from segmeter.harness.profiling import OutOfMemory, Plan, Settings
    from segmeter.harness.profiling import profile as measure
    from segmeter.harness.records import check_folder, save

    with user_input():
        first = model[0] if model else None
        sizes = chosen_sizes(padded_size or "512x1024", None, "coco", None, None, None)
        classes = chosen_classes(num_classes, sizes, first)
        specs = [chosen_spec(text, None, backbone, classes, num_queries, inputs=input) for text in model]
        own = [sizes_of(spec, sizes, padded_size) for spec in specs]
        sizes = own[0]
        for spec, other in zip(specs, own, strict=True):
            if other.images != sizes.images:
                made_for = f"{specs[0].title} is made for {sizes.name}, {spec.title} for {other.name}"
                raise ValueError(f"{made_for}; give --padded-size to measure them at one size")
            check_size(spec, next(iter(sizes.images)).padded)
        settings = Settings(
            padded_size=next(iter(sizes.images)).padded,
            device=device,
            dtype=dtype,
            batch=batch,
            threads=threads,
            compile=compile,
            runtimes=tuple(runtime or ()),
            cuda_graph=cuda_graph,
            keep_memory=keep_memory,
            images=tuple(images or ()),
            depth=depth,
            plan=Plan(seconds, min_rounds, max(1000, min_rounds), width),
        )
        if roofline is not None and roofline.suffix not in (".pdf", ".svg", ".png"):
            raise ValueError(f"--roofline must end in .pdf, .svg or .png, got {roofline.name!r}")
        check_folder(out)
        try:
            with progress_bar("profiling", 2 * len(specs) * len(settings.chosen_runtimes) + 2) as advance:
                runs = measure(specs, settings, advance)
        except OutOfMemory as error:
            warn(str(error))
            raise typer.Exit(EXIT_FAILED) from None
    records = [run.content() for run in runs]
    if json:
        show_json({"runs": records})
    else:
        from segmeter.reports.text.profile import component_tables, latency_table, notes, ratio_lines

        show(*ratio_lines(records), latency_table(records))
        for record in records:
            show(*(component_tables(record) if record["components"] else ()), *notes(record))
    # Printed before they are written: a full disk does not take the figures along.
    with user_input():
        paths = [save(run, out) for run in runs]
        if roofline is not None:
            from segmeter.harness.records import write_bytes
            from segmeter.reports.plots.breakdown import figure_bytes
            from segmeter.reports.plots.roofline import roofline_figure

            write_bytes(roofline, figure_bytes(roofline_figure(records), roofline.suffix[1:]))
    if not json:
        show(*(f"record      {path}" for path in paths))

"""Models as ONNX files, for other runtimes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.asked import chosen_classes, chosen_sizes, chosen_spec, sizes_of
from segmeter.commands.console import progress_bar, show, show_json, user_input
from segmeter.commands.grouped import grouped
from segmeter.commands.known import check_word
from segmeter.commands.options import (
    MODEL_SYNTAX,
    Heads,
    InputOpt,
    InputSize,
    JsonOpt,
    RenamedCommand,
    VerboseOpt,
)
from segmeter.commands.weights import WeightsOpt
from segmeter.commands.written import check_model

STEPS = 3
DEFAULT_SIZE = "512x1024"


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(cls=RenamedCommand)(export)


@dataclass(frozen=True)
class Exported:
    """What is exported, and for what inputs."""

    format: Annotated[str, typer.Option(metavar="onnx", help="Form of the output.")] = "onnx"
    plugin: Annotated[
        bool,
        typer.Option("--plugin", help="Deformable attention as TensorRT's plugin. Not as GridSample."),
    ] = False
    padded_size: Annotated[
        str | None,
        typer.Option(help="HxW that the network sees. Default: 512x1024, or a library's model's own."),
    ] = None
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Let batch, height and width change, where the model does.")
    ] = False
    part: Annotated[
        str, typer.Option(help="What is exported: model, one of its stages, or FIRST..LAST of them.")
    ] = "model"


@grouped
def export(
    *,
    model: Annotated[str, typer.Argument(help=MODEL_SYNTAX)],
    what: Exported,
    weights: WeightsOpt = None,
    heads: Heads,
    input: InputOpt = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference from eager, over an output's largest entry.")
    ] = 1e-3,
    out: Annotated[Path, typer.Option(help="Where to write. A file.")] = Path("model.onnx"),
    verbose: VerboseOpt = False,
    json: JsonOpt = False,
) -> None:
    """Write a model as ONNX, checked in ONNX Runtime against eager."""
    with user_input():
        # Before torch is loaded: a typo is answered at once.
        check_word("format", what.format, ["onnx"])
        check_model(model)
        if what.batch < 1:
            raise ValueError(f"batch must be at least 1, got {what.batch}")
        if not out.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {out.absolute().parent}; --out names the file to write")
        if out.is_dir():
            raise ValueError(f"{out} is a folder; --out names the file to write")
    from segmeter.harness.export import Settings, check_packages
    from segmeter.harness.export import export as export_model
    from segmeter.harness.models import real_model
    from segmeter.harness.records import write_bytes
    from segmeter.harness.weights import load_model
    from segmeter.reports.text.export import export_lines, outputs_table

    with user_input():
        check_packages()
        sizes = chosen_sizes(InputSize(what.padded_size or DEFAULT_SIZE))
        classes = chosen_classes(heads.num_classes, sizes, model)
        spec = chosen_spec(model, None, heads.backbone, classes, heads.num_queries, inputs=input)
        source = "random"
        if weights is not None:
            network, spec, _ = load_model(weights, spec)
            source = str(weights)
        else:
            network = real_model(spec)
        padded = next(iter(sizes_of(spec, sizes, InputSize(what.padded_size)).images)).padded
        settings = Settings(padded, what.batch, what.part, what.plugin, what.dynamic, tolerance)
        with progress_bar(f"exporting {spec.title}", STEPS) as advance:
            made = export_model(spec, network, settings, source, advance)
        write_bytes(out, made.content)
    record = {**made.record, "file": str(out)}
    if json:
        return show_json(record)
    show(outputs_table(record), *export_lines(record))

"""Checkpoints on the command line: convert, and what evaluate and predict share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.asked import chosen_spec
from segmeter.commands.console import EXIT_FAILED, show, show_json, user_input, warn
from segmeter.commands.options import BackboneOpt, EncoderOpt, JsonOpt
from segmeter.plain import one_line

if TYPE_CHECKING:
    from torch import nn

    from segmeter.harness.models import ModelSpec

WeightsOpt = Annotated[
    Path | None, typer.Option(help="A checkpoint. One of .pkl, .pth, .pt, .bin or .safetensors.")
]


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(convert)


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint of Mask2Former, PRO-SCALE or transformers.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    encoder: EncoderOpt = None,
    backbone: BackboneOpt = None,
    json: JsonOpt = False,
) -> None:
    """Write a checkpoint as safetensors in segmeter's names; every entry that does not fit is listed."""
    from segmeter.harness.weights import CheckpointMismatchError
    from segmeter.harness.weights import convert as convert_file

    with user_input():
        try:
            spec, report = convert_file(source, target, given_spec(encoder, backbone, source))
        except CheckpointMismatchError as error:
            show(*error.report.lines())
            raise
    if json:
        return show_json(
            {
                "model": spec.text,
                "entries": report.matched,
                "ignored": list(report.ignored),
                "num_classes": spec.num_classes,
                "num_queries": spec.num_queries,
                "written": str(target),
            }
        )
    show(f"{spec.text}: {report.matched} entries, {spec.num_classes} classes, {spec.num_queries} queries")
    show(*(f"ignored     {name}" for name in report.ignored))
    show(f"written: {target}")


def given_spec(encoder: str | None, backbone: str | None, weights: Path | None) -> "ModelSpec | None":
    """The model asked for; None where nothing is said. A backbone that is not named is the checkpoint's."""
    if encoder is None and backbone is None:
        return None
    if encoder is None:
        raise ValueError("--backbone needs --encoder; without both the checkpoint says what it is")
    if backbone is None and weights is not None and "@" not in encoder:
        from segmeter.harness.weights import read_checkpoint, recognise_backbone

        backbone = recognise_backbone(read_checkpoint(weights).weights)
    # The encoder may carry options, such as pro-scale:stages=1,1,3.
    return chosen_spec(encoder, None, backbone, 133, None)


def load(path: Path, spec: "ModelSpec | None", settings: Any) -> "tuple[nn.Module, ModelSpec]":
    """A checkpoint's model on the settings' device, in their dtype; entries that do not fit are listed."""
    from segmeter.harness.quality import DTYPES
    from segmeter.harness.weights import CheckpointMismatchError, load_model

    try:
        model, found, _ = load_model(path, spec)
    except CheckpointMismatchError as error:
        for line in error.report.lines():
            warn(line)
        raise
    return model.to(settings.device, DTYPES[settings.dtype]), found


@contextmanager
def named_failures() -> Iterator[None]:
    """What a machine runs out of, told in one line; what is finished is kept."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from torch import OutOfMemoryError

        from segmeter.harness.quality import WorkerKilledError

        if isinstance(error, MemoryError | OutOfMemoryError):
            warn(f"out of memory; smaller images or a smaller --batch may do ({one_line(error)[:200]})")
        elif isinstance(error, WorkerKilledError):
            warn(str(error))
        else:
            raise
        raise typer.Exit(EXIT_FAILED) from None

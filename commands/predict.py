"""Pictures of what checkpoints predict, and data sets on disk."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input
from segmeter.commands.groups import CommandGroup
from segmeter.commands.options import WEIGHT_DTYPES, DeviceOpt, DtypeOpt, JsonOpt, precision
from segmeter.commands.weights import load, named_failures

if TYPE_CHECKING:
    from segmeter.harness.quality import PhotoResult


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(predict)
    group = typer.Typer(
        help="Data sets on disk; nothing is ever downloaded.", cls=CommandGroup, no_args_is_help=True
    )
    group.callback()(_datasets)
    group.command()(check)
    app.add_typer(group, name="datasets")


def _datasets() -> None:
    """Data sets on disk; nothing is ever downloaded."""


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photos or folders of photos.")],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint. May be repeated, the encoders then stand side by side."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A data set. How images are resized, class names: coco, cityscapes or ade20k."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The data set's folder. Or its panoptic annotation file; for class names."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write. A folder.")] = Path("results/runs/predict"),
    device: DeviceOpt = "cpu",
    dtype: DtypeOpt = "fp32",
    json: JsonOpt = False,
) -> None:
    """Draw panoptic, instance and semantic results, or a detector's boxes, over photos, with a legend."""
    with user_input():
        # Before torch is loaded: what is plainly wrong is told at once.
        if not weights:
            raise ValueError("give at least one --weights FILE")
        number = precision(dtype, WEIGHT_DTYPES)
    with user_input(), named_failures():
        from segmeter.harness.inputs import find_photos
        from segmeter.harness.quality import Settings, photo_class_names, predict_photo

        settings = Settings(device, number)
        settings.check()
        photos = find_photos(images)
        models = [load(path, None, settings) for path in weights]
        names = [photo_class_names(spec, dataset, data) for _, spec in models]
        out.mkdir(parents=True, exist_ok=True)
        from segmeter.harness.records import write_bytes
        from segmeter.reports.plots.overlays import overlay_figure, picture_bytes

        written = []
        told: list[dict[str, Any]] = []
        with progress_bar("predicting", len(photos) * len(models)) as advance:
            for photo in photos:
                results = []
                for (model, spec), categories in zip(models, names, strict=True):
                    results.append(predict_photo(model, spec, photo.path, categories, dataset, settings))
                    advance()
                path = out / f"{photo.path.stem}.png"
                write_bytes(path, picture_bytes(overlay_figure(results)))
                written.append(path)
                told.append({"photo": str(photo.path), "picture": str(path), "models": _told(results)})
    if json:
        return show_json(told)
    show("written:", *(f"  {path}" for path in written))


def _told(results: "Sequence[PhotoResult]") -> list[dict[str, Any]]:
    """What each model sees in a photo: how many segments of each class."""
    return [
        {
            "title": result.title,
            "instances": len(result.instances),
            "boxes": None if result.boxes is None else len(result.boxes),
            "segments": Counter(result.classes[category][0] for category in result.segments.values()),
        }
        for result in results
    ]


def check(
    folder: Annotated[Path, typer.Argument(help="A data set's folder.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    json: JsonOpt = False,
) -> None:
    """Say what is there of a data set, what is missing, and where to get it."""
    with user_input():
        from segmeter.harness.quality import check_folder

        pieces = check_folder(folder, split)
    if json:
        return show_json(
            [
                {
                    "dataset": p.dataset,
                    "what": p.what,
                    "path": str(p.path),
                    "found": p.found,
                    "files": p.files,
                }
                for p in pieces
            ]
        )
    for piece in pieces:
        if piece.found:
            files = f" ({piece.files:,} files)" if piece.path.is_dir() else ""
            show(f"found    {piece.dataset:<10} {piece.what}: {piece.path}{files}")
        else:
            show(f"missing  {piece.dataset:<10} {piece.what}: expected {piece.path}; {piece.hint}")

"""Semantic quality beside its cost: miou."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmeter.commands.asked import chosen_spec
from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.grouped import grouped
from segmeter.commands.options import ImagesOpt, JsonOpt
from segmeter.commands.written import check_model

if TYPE_CHECKING:
    from segmeter.harness.models import ModelSpec
    from segmeter.harness.quality import SemanticData, Windows

# All that a folder holds.
MOST_PHOTOS = 1_000_000


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(miou)


@dataclass(frozen=True)
class Pictures:
    """Photos and their labels, or a data set as it is published."""

    images: ImagesOpt = None
    labels: Annotated[
        Path | None, typer.Option(help="PNGs of class ids, named as the photos. 255 is void.")
    ] = None
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ade20k|cityscapes", help="A data set. With --data, instead of --images and --labels."
        ),
    ] = None
    data: Annotated[Path | None, typer.Option(help="The data set's folder. Laid out as it is published.")] = (
        None
    )


@dataclass(frozen=True)
class Sliding:
    """How the model sees a photo."""

    crop: Annotated[int | None, typer.Option(help="Side of a window; default: the model's size.")] = None
    stride: Annotated[int | None, typer.Option(help="From window to window; default: the crop.")] = None
    short_side: Annotated[
        int | None, typer.Option(help="Short side of the resized photos. Default: the crop.")
    ] = None
    whole: Annotated[bool, typer.Option("--whole", help="The resized photo at once, without windows.")] = (
        False
    )
    flip: Annotated[bool, typer.Option("--flip", help="Also mirrored; the mean of both.")] = False
    window_batch: Annotated[int, typer.Option(help="Windows that run at once.")] = 4


@grouped
def miou(
    *,
    model: Annotated[str, typer.Argument(help="segmenter or segformer with its options, or a preset.")],
    weights: Annotated[Path, typer.Option(help="A checkpoint.")],
    pictures: Pictures,
    sliding: Sliding,
    zero_is_void: Annotated[
        bool, typer.Option("--zero-is-void", help="Labels count from 1, as ADE20K's files do.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Mean IoU over sliding windows, and the mean cost of a window of the same photos."""
    with user_input():
        check_model(model)
        from_data = pictures.dataset is not None and pictures.data is not None
        is_half = (pictures.dataset is None) != (pictures.data is None)
        if from_data == (pictures.images is not None and pictures.labels is not None) or is_half:
            raise ValueError("give --images and --labels, or --dataset and --data")
        if sliding.whole and (sliding.crop or sliding.stride):
            raise ValueError("--whole has no windows: it goes without --crop and --stride")
        spec, windows = _model_and_windows(model, sliding)
        record = _scored(spec, weights, _data(pictures, zero_is_void), windows)
    for fault in record["skipped"]:
        warn(f"skipped: {fault}")
    if json:
        return show_json(record)
    seen = "whole" if windows.whole else f"{record['windows']} windows of {windows.crop}"
    show(
        f"{record['title']}: mIoU {record['miou']:.2f} % over {record['classes']} classes, "
        f"{record['images']} photos, {seen}{', each also mirrored (twice the work)' if windows.flip else ''}",
        f"cost: {record['window_gmacs']:.2f} GMACs, each photo squeezed into one window, as the papers count",
    )


def _model_and_windows(text: str, sliding: Sliding) -> "tuple[ModelSpec, Windows]":
    from segmeter.harness.models import usual_input
    from segmeter.harness.quality import Windows

    size, classes = usual_input(text)
    if size is None:
        raise ValueError(f"miou takes models that give class maps, such as segmenter; got {text}")
    side = sliding.crop or int(size.partition("x")[0])
    windows = Windows(
        *(side, sliding.stride or side, sliding.short_side or side),
        *(sliding.window_batch, sliding.whole, sliding.flip),
    )
    spec = chosen_spec(text, None, None, classes or 150, None)
    windows.check(spec.system.size_divisor)
    return spec, windows


def _data(pictures: Pictures, zero_is_void: bool) -> "SemanticData":
    from segmeter.harness.quality import SemanticData, beside, semantic_set

    if pictures.dataset is not None and pictures.data is not None:
        return semantic_set(pictures.dataset, pictures.data)
    return SemanticData(pictures.images or [], beside(pictures.labels or Path()), zero_is_void)


def _scored(spec: "ModelSpec", weights: Path, data: "SemanticData", windows: "Windows") -> dict[str, Any]:
    """The record: the score, and the cost of a window of the same photos."""
    from segmeter.harness.counting import count_images, images_record
    from segmeter.harness.inputs import ImageSize, choose_photos
    from segmeter.harness.quality import score_photos
    from segmeter.harness.weights import load_model

    built, spec, _ = load_model(weights, spec)
    photos, faults = choose_photos(data.photos, MOST_PHOTOS, 0)
    with progress_bar(spec.title, 2 * len(photos)) as advance:
        record = score_photos(
            built,
            photos,
            data.label_of,
            windows,
            spec.system.pixels,
            spec.num_classes,
            divisor=spec.system.size_divisor,
            zero_is_void=data.zero_is_void,
            classes_of=data.classes_of,
            step=advance,
        )
        crop = (windows.crop, windows.crop)
        counted = count_images(
            spec,
            ImageSize(crop, crop),
            photos,
            "published",
            model=built,
            weights=weights.name,
            progress=advance,
        )
    return record | {
        "schema": "segmeter.miou/1",
        "model": spec.text,
        "title": spec.title,
        "weights": weights.name,
        "crop": windows.crop,
        "stride": windows.stride,
        "short_side": windows.short_side,
        "window_batch": windows.batch,
        "whole": windows.whole,
        "flip": windows.flip,
        "window_gmacs": images_record(counted)["total_gmacs"],
        "skipped": faults,
    }

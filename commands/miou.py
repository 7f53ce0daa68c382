"""Semantic quality beside its cost: miou."""

from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.known import check_model
from segmeter.commands.options import ImagesOpt, JsonOpt, chosen_spec


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(miou)


def miou(
    model: Annotated[str, typer.Argument(help="segmenter or segformer with its options, or a preset.")],
    weights: Annotated[Path, typer.Option(help="A checkpoint.")],
    images: ImagesOpt = None,
    labels: Annotated[
        Path | None, typer.Option(help="PNGs of class ids, named as the photos. 255 is void.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ade20k|cityscapes", help="A data set. With --data, instead of --images and --labels."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder. Laid out as it is published.")
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Side of a window; default: the model's size.")] = None,
    stride: Annotated[int | None, typer.Option(help="From window to window; default: the crop.")] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Short side of the resized photos. Default: the crop.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="The resized photo at once, without windows.")
    ] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Also mirrored; the mean of both.")] = False,
    window_batch: Annotated[int, typer.Option(help="Windows that run at once.")] = 4,
    zero_is_void: Annotated[
        bool, typer.Option("--zero-is-void", help="Labels count from 1, as ADE20K's files do.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Mean IoU over sliding windows, and the mean cost of a window of the same photos."""
    with user_input():
        check_model(model)
        from_data = dataset is not None and data is not None
        if from_data == (images is not None and labels is not None) or (dataset is None) != (data is None):
            raise ValueError("give --images and --labels, or --dataset and --data")
        if whole and (crop or stride):
            raise ValueError("--whole has no windows: it goes without --crop and --stride")
        from segmeter.harness.counting import count_images, images_record
        from segmeter.harness.inputs import ImageSize, choose_photos
        from segmeter.harness.models import usual_input
        from segmeter.harness.quality import SemanticData, Windows, beside, score_photos, semantic_set
        from segmeter.harness.weights import load_model

        size, classes = usual_input(model)
        if size is None:
            raise ValueError(f"miou takes models that give class maps, such as segmenter; got {model}")
        side = crop or int(size.partition("x")[0])
        windows = Windows(side, stride or side, short_side or side, window_batch, whole, flip)
        spec = chosen_spec(model, None, None, classes or 150, None)
        windows.check(spec.system.size_divisor)
        if dataset is not None and data is not None:
            found = semantic_set(dataset, data)
        else:
            found = SemanticData(images or [], beside(labels or Path()), zero_is_void)
        built, spec, _ = load_model(weights, spec)
        photos, faults = choose_photos(found.photos, 1_000_000, 0)
        with progress_bar(spec.title, 2 * len(photos)) as advance:
            record = score_photos(
                built,
                photos,
                found.label_of,
                windows,
                spec.system.pixels,
                spec.num_classes,
                divisor=spec.system.size_divisor,
                zero_is_void=found.zero_is_void,
                step=advance,
            )
            counted = count_images(
                spec,
                ImageSize((side, side), (side, side)),
                photos,
                "published",
                model=built,
                weights=weights.name,
                progress=advance,
            )
    record |= {
        "schema": "segmeter.miou/1",
        "model": spec.text,
        "title": spec.title,
        "weights": weights.name,
        "crop": windows.crop,
        "stride": windows.stride,
        "short_side": windows.short_side,
        "window_batch": windows.batch,
        "whole": whole,
        "flip": flip,
        "window_gmacs": images_record(counted)["total_gmacs"],
        "skipped": faults,
    }
    for fault in faults:
        warn(f"skipped: {fault}")
    if json:
        return show_json(record)
    seen = "whole" if whole else f"{record['windows']} windows of {side}"
    show(
        f"{record['title']}: mIoU {record['miou']:.2f} % over {record['classes']} classes, "
        f"{record['images']} photos, {seen}{', each also mirrored (twice the work)' if flip else ''}",
        f"cost: {record['window_gmacs']:.2f} GMACs, each photo squeezed into one window, as the papers count",
    )

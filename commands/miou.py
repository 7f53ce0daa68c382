"""Semantic quality beside its cost: miou."""

from pathlib import Path
from typing import Annotated

import typer

from segmeter.commands.console import progress_bar, show, show_json, user_input, warn
from segmeter.commands.known import check_model
from segmeter.commands.options import JsonOpt, chosen_spec


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(miou)


def miou(
    model: Annotated[str, typer.Argument(help="segmenter or segformer with its options, or a preset.")],
    weights: Annotated[Path, typer.Option(help="A checkpoint.")],
    images: Annotated[list[Path], typer.Option(help="A photo or a folder of photos; may be repeated.")],
    labels: Annotated[Path, typer.Option(help="PNGs of class ids, named as the photos. 255 is void.")],
    crop: Annotated[int | None, typer.Option(help="Side of a window; default: the model's size.")] = None,
    stride: Annotated[int | None, typer.Option(help="From window to window; default: the crop.")] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Short side of the resized photos. Default: the crop.")
    ] = None,
    window_batch: Annotated[int, typer.Option(help="Windows that run at once.")] = 4,
    zero_is_void: Annotated[
        bool, typer.Option("--zero-is-void", help="Labels count from 1, as ADE20K's files do.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Mean IoU over sliding windows, and the mean cost of a window of the same photos."""
    with user_input():
        check_model(model)
        from segmeter.harness.counting import count_images, images_record
        from segmeter.harness.inputs import ImageSize, choose_photos
        from segmeter.harness.models import usual_input
        from segmeter.harness.quality import Windows, score_photos
        from segmeter.harness.weights import load_model

        size, classes = usual_input(model)
        if size is None:
            raise ValueError(f"miou takes models that give class maps, segmenter or segformer; got {model}")
        side = crop or int(size.partition("x")[0])
        windows = Windows(side, stride or side, short_side or side, window_batch)
        spec = chosen_spec(model, None, None, classes or 150, None)
        windows.check(spec.system.size_divisor)
        built, spec, _ = load_model(weights, spec)
        photos, faults = choose_photos(images, 1_000_000, 0)
        with progress_bar(spec.title, 2 * len(photos)) as advance:
            record = score_photos(
                built,
                photos,
                labels,
                windows,
                spec.system.pixels,
                spec.num_classes,
                zero_is_void=zero_is_void,
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
        "window_gmacs": images_record(counted)["total_gmacs"],
        "skipped": faults,
    }
    for fault in faults:
        warn(f"skipped: {fault}")
    if json:
        return show_json(record)
    show(
        f"{record['title']}: mIoU {record['miou']:.2f} % over {record['classes']} classes, "
        f"{record['images']} photos, {record['windows']} windows of {side}",
        f"cost: {record['window_gmacs']:.2f} GMACs, each photo squeezed into one window, as the papers count",
    )

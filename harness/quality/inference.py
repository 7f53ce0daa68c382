"""A model over a data set's images: predictions in files, resumable, in one process or several.

Source: Mask2Former's ``maskformer_model.py`` (thresholds, merging, resizing), detectron2's test-time resize.
A folder of predictions holds ``panoptic/*.png`` with ``panoptic.json`` (COCO panoptic results),
``instances.json`` (COCO results) and ``semantic/*.png`` (class per pixel, 255 for none).
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from segmeter.encoders.chain import Model
from segmeter.encoders.images import normalise, pad_to_multiple
from segmeter.encoders.parts.boxes import DetectionOutput
from segmeter.encoders.segmenter.postprocess import SegmentationOutput, instances, panoptic
from segmeter.files import check_regular, locked
from segmeter.harness.inputs import ResizeRule, open_photo
from segmeter.harness.models import in_full_precision
from segmeter.harness.quality.boxes import ClassIds, instance_lines
from segmeter.harness.quality.datasets import Entry, PanopticSet
from segmeter.harness.quality.instance_ap import encode_mask
from segmeter.harness.quality.miou import MAX_CLASSES
from segmeter.harness.quality.png_ids import segment_png
from segmeter.harness.quality.predictions import cut_to_whole_lines, find_states, named_folder, open_folder
from segmeter.harness.records import write_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How to run a model: device, number type and images at once."""

    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1

    def check(self) -> None:
        """Raise ValueError on a device, number type or batch that there is not."""
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(f"unknown device {self.device!r}; choose cpu, cuda or cuda:N") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("no NVIDIA GPU on this machine; use --device cpu")


def read_image(path: Path) -> np.ndarray:
    """An image file as RGB, upright: (H, W, 3) uint8.

    Raises:
        ValueError: missing, no regular file, no photo, truncated, or of too many pixels.
    """
    check_regular(path)
    try:
        with open_photo(path) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


@torch.inference_mode()
def segment(
    model: nn.Module, images: Sequence[np.ndarray], rule: ResizeRule, settings: Settings
) -> SegmentationOutput | DetectionOutput:
    """Run a model on images of one size, and bring its results to that size.

    Args:
        model: a whole model, its stages in a row, on the settings' device, in their dtype.
        images: (H, W, 3) uint8 RGB, all of one size.
        rule: how they are resized for the network (PIL's bilinear filter, as detectron2 does).
        settings: device and dtype; post-processing is always in float32.

    Raises:
        ValueError: the model gives neither masks nor boxes.
    """
    if not isinstance(model, Model):
        raise TypeError(f"expected a model as a row of stages, got {type(model).__name__}")
    original = images[0].shape[:2]
    height, width = rule.apply((original[0], original[1]))
    resized = [
        np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        for image in images
    ]
    normal = [normalise(image, model.pixels.mean, model.pixels.std) for image in resized]
    batch = pad_to_multiple(torch.stack(normal)).to(settings.device, DTYPES[settings.dtype])
    value: Any = batch
    sizes = model.sizes_of(batch, (height, width), (original[0], original[1]))
    for stage in model.stages:
        if stage.full_precision:
            value = in_full_precision(value)
        value = stage.call(model.get_submodule(stage.name), value, sizes)
    if not isinstance(value, SegmentationOutput | DetectionOutput):
        raise ValueError(
            "the model gives neither masks nor boxes; one of class maps is scored by `segmeter miou`"
        )
    return value


def predict_dataset(
    model: nn.Module,
    dataset: PanopticSet,
    entries: Sequence[Entry],
    folder: Path,
    settings: Settings,
    identity: dict[str, Any],
    rank: int = 0,
    world: int = 1,
    on_image: Callable[[], None] = lambda: None,
    things: ClassIds | None = None,
) -> list[str]:
    """Predict every ``world``-th image from ``rank`` on; what the folder already has is kept.

    Args:
        things: of :func:`harness.quality.boxes.thing_ids`; only instances are then written.

    Returns:
        One line for each image that could not be predicted.

    Raises:
        ValueError: the folder holds another run's predictions, or another process is writing them.
        OSError: the folder cannot be written; a later call goes on where this one stopped.
    """
    with named_folder(folder):
        return _predict(model, dataset, entries, folder, settings, identity, (rank, world), on_image, things)


def _predict(
    model: nn.Module,
    dataset: PanopticSet,
    entries: Sequence[Entry],
    folder: Path,
    settings: Settings,
    identity: dict[str, Any],
    share: tuple[int, int],
    on_image: Callable[[], None],
    things: ClassIds | None,
) -> list[str]:
    rank, world = share
    open_folder(folder, identity, whole=things is None)
    state = folder / "state" / f"{rank}-of-{world}.jsonl"
    state.touch()
    with ExitStack() as held:
        _take(state, world, folder, held)
        return _predict_mine(model, dataset, entries, folder, settings, state, share, on_image, things)


def _take(state: Path, world: int, folder: Path, held: ExitStack) -> None:
    """Have this share of a folder alone: another process would do all of the work again.

    Raises:
        ValueError: a process that has the same share, or that splits the work in another way, is at work.
    """
    mine = held.enter_context(locked(state, wait=False))
    others = [path for path in state.parent.glob("*.jsonl") if not path.stem.endswith(f"-of-{world}")]
    for path in others:
        with locked(path, wait=False) as free:
            mine = mine and free
    if not mine:
        raise ValueError(
            f"another process is predicting into {folder}: wait for it, choose another folder with --out, or "
            "start one command for all with torchrun, whose processes share the images"
        )


def _predict_mine(
    model: nn.Module,
    dataset: PanopticSet,
    entries: Sequence[Entry],
    folder: Path,
    settings: Settings,
    state: Path,
    share: tuple[int, int],
    on_image: Callable[[], None],
    things: ClassIds | None,
) -> list[str]:
    """This process's share; what any process has done before is kept."""
    rank, world = share
    done = find_states(folder)
    faults: list[str] = []
    cut_to_whole_lines(state)
    mine = [entry for entry in entries[rank::world] if entry.image_id not in done]
    for _ in range(len(entries[rank::world]) - len(mine)):
        on_image()
    with state.open("a", encoding="utf-8") as lines:
        for group, images, unread in _groups(mine, settings.batch):
            faults += unread
            for _ in unread:
                on_image()
            if not group:
                continue
            start = time.perf_counter()
            output = segment(model, images, dataset.rule, settings)
            if settings.device != "cpu":
                torch.cuda.synchronize()
            seconds = (time.perf_counter() - start) / len(group)
            for line in _lines(output, group, dataset, folder, things, images[0].shape[:2]):
                # The pictures are on disk whole before their line is: a line means that an image is done.
                lines.write(json.dumps({**line, "seconds": seconds}) + "\n")
                lines.flush()
                on_image()
    return faults


def _groups(
    entries: Sequence[Entry], batch: int
) -> Iterator[tuple[list[Entry], list[np.ndarray], list[str]]]:
    """Runs of images of one size, so that a batch gives what its images give one by one."""
    group: list[Entry] = []
    images: list[np.ndarray] = []
    for entry in entries:
        try:
            image = read_image(entry.image)
        except ValueError as error:
            yield [], [], [f"image {entry.image_id}: {error}"]
            continue
        if group and (len(group) == batch or image.shape != images[0].shape):
            yield group, images, []
            group, images = [], []
        group.append(entry)
        images.append(image)
    if group:
        yield group, images, []


def _lines(
    output: SegmentationOutput | DetectionOutput,
    group: Sequence[Entry],
    dataset: PanopticSet,
    folder: Path,
    things: ClassIds | None,
    size: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    if things is not None:
        return iter(instance_lines(output, group, things, size))
    if isinstance(output, DetectionOutput):
        raise ValueError("this model finds boxes and no masks")
    return _results(output, group, dataset, folder)


def _results(
    output: SegmentationOutput, group: Sequence[Entry], dataset: PanopticSet, folder: Path
) -> Iterator[dict[str, Any]]:
    """Write each image's pictures, and give its line."""
    things = [index for index, category in enumerate(dataset.categories) if category.isthing]
    ids = [category.id for category in dataset.categories]
    found = instances(output, thing_ids=things)
    semantic = output.semantic_map()
    for index, (entry, result) in enumerate(zip(group, panoptic(output, things), strict=True)):
        name = f"{entry.image_id}.png"
        write_png(folder / "panoptic" / name, segment_png(result.segmentation.cpu().numpy()))
        if len(ids) <= MAX_CLASSES:
            # In 8 bits a class beyond would be another one.
            classes = semantic[index].argmax(dim=0).to(torch.uint8).cpu().numpy()
            write_png(folder / "semantic" / name, Image.fromarray(classes))
        best = found[index]
        yield {
            "image_id": entry.image_id,
            "file_name": name,
            "segments_info": [
                {"id": s.id, "category_id": ids[s.category_id], "isthing": s.isthing} for s in result.segments
            ],
            "instances": [
                {
                    "image_id": entry.image_id,
                    "category_id": ids[category],
                    "score": score,
                    "segmentation": encode_mask(mask),
                }
                for mask, category, score in zip(
                    best.masks.cpu().numpy(), best.category_ids.tolist(), best.scores.tolist(), strict=True
                )
            ],
        }


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG atomically, lightly compressed."""
    buffer = BytesIO()
    picture.save(buffer, "png", compress_level=1)
    write_bytes(path, buffer.getvalue())

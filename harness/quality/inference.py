"""A model over a data set's images: predictions in files, resumable, in one process or several.

Source: Mask2Former's ``maskformer_model.py`` (thresholds, merging, resizing), detectron2's test-time resize.
A folder of predictions holds ``panoptic/*.png`` with ``panoptic.json`` (COCO panoptic results),
``instances.json`` (COCO results) and ``semantic/*.png`` (class per pixel, 255 for none).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from segmeter.files import check_regular, locked, plain_id, read_json
from segmeter.harness.inputs import ResizeRule, open_photo
from segmeter.harness.models import in_full_precision
from segmeter.harness.quality.boxes import ClassIds, instance_lines
from segmeter.harness.quality.datasets import Entry, PanopticSet
from segmeter.harness.quality.instance_ap import encode_mask
from segmeter.harness.quality.miou import MAX_CLASSES
from segmeter.harness.quality.png_ids import segment_png
from segmeter.harness.records import write_bytes, write_json, write_parts
from segmeter.plain import shown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RUN_FILE = "run.json"
LINE_KEYS = {"image_id", "file_name", "segments_info", "instances", "seconds"}


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
    """
    original = images[0].shape[:2]
    height, width = rule.apply((original[0], original[1]))
    resized = [
        normalise(np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)))
        for image in images
    ]
    batch = pad_to_multiple(torch.stack(resized)).to(settings.device, DTYPES[settings.dtype])
    if not isinstance(model, Model):
        raise TypeError(f"expected a model as a row of stages, got {type(model).__name__}")
    value: Any = batch
    sizes = model.sizes_of(batch, (height, width), (original[0], original[1]))
    for stage in model.stages:
        if stage.full_precision:
            value = in_full_precision(value)
        value = stage.call(model.get_submodule(stage.name), value, sizes)
    if not isinstance(value, SegmentationOutput | DetectionOutput):
        raise TypeError(f"expected masks or boxes, got {type(value).__name__}")
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
    with _named_folder(folder):
        return _predict(model, dataset, entries, folder, settings, identity, (rank, world), on_image, things)


@contextmanager
def _named_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write into {folder}: {error.strerror or error}; "
            "give the same command again to go on where it stopped"
        ) from None


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
    _cut_to_whole_lines(state)
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


def open_folder(folder: Path, identity: dict[str, Any], whole: bool = True) -> None:
    """Make a folder for predictions, or find in it those of the same run.

    Args:
        folder: where.
        identity: what the run is.
        whole: whether there will be panoptic and semantic pictures.

    Raises:
        ValueError: it holds another run's.
    """
    for part in ("panoptic", "semantic", "state") if whole else ("state",):
        (folder / part).mkdir(parents=True, exist_ok=True)
    path = folder / RUN_FILE
    if not path.exists():
        write_json(path, identity)
        return
    found = read_json(path)
    for key, value in identity.items():
        if not isinstance(found, dict) or found.get(key) != value:
            other = found.get(key) if isinstance(found, dict) else None
            raise ValueError(
                f"{folder} holds another run's predictions: {key} {shown(other)}, not {shown(value)}; "
                "choose another folder with --out"
            )


def find_states(folder: Path) -> dict[int | str, tuple[Path, int]]:
    """Finished images: id -> the file that has its line, and where. A line that was cut off is not done."""
    done: dict[int | str, tuple[Path, int]] = {}
    for path in sorted((folder / "state").glob("*.jsonl")):
        position = 0
        with path.open("rb") as lines:
            for line in lines:
                image_id = _finished(line)
                if image_id is not None:
                    done[image_id] = path, position
                position += len(line)
    return done


def _finished(line: bytes) -> int | str | None:
    """The image of a line that is whole and has all that a result needs; None for any other."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
        if not isinstance(content, dict) or not content.keys() >= LINE_KEYS:
            return None
        return plain_id(content["image_id"])
    except (ValueError, RecursionError):
        return None


def read_states(folder: Path, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """The lines of those images that are finished, one after the other; they are large."""
    done = find_states(folder)
    for entry in entries:
        if entry.image_id in done:
            path, position = done[entry.image_id]
            with path.open("rb") as lines:
                lines.seek(position)
                yield json.loads(lines.readline())


def gather(folder: Path, entries: Sequence[Entry]) -> dict[int | str, float]:
    """Join what the processes did into ``panoptic.json`` and ``instances.json``, without holding it all.

    Returns:
        Image id -> seconds, of the images that are finished.

    Raises:
        OSError: the folder cannot be written.
    """
    keys = ("image_id", "file_name", "segments_info")
    whole = ({key: line[key] for key in keys} for line in read_states(folder, entries))
    things = (found for line in read_states(folder, entries) for found in line["instances"])
    with _named_folder(folder):
        if (folder / "panoptic").is_dir():
            write_parts(folder / "panoptic.json", _json_list(b'{"annotations": [', whole, b"]}\n"))
        write_parts(folder / "instances.json", _json_list(b"[", things, b"]\n"))
    return {line["image_id"]: line["seconds"] for line in read_states(folder, entries)}


def _json_list(head: bytes, items: Iterator[dict[str, Any]], tail: bytes) -> Iterator[bytes]:
    yield head
    for index, item in enumerate(items):
        yield (b",\n" if index else b"\n") + json.dumps(item).encode()
    yield tail


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


def _cut_to_whole_lines(path: Path) -> None:
    """Drop a last line that a killed process left unfinished."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)

"""Quality of predictions on a data set: PQ, SQ, RQ, AP and mIoU, as one record.

Any system's predictions can be scored: a folder in COCO's result formats (see
:mod:`harness.quality.inference`) is all that is read. An image that cannot be scored is named, and no score
is made unless the caller says that such images are to be left out; then the record says how many.
"""

import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segmeter.files import check_regular, inside, plain_id, read_json
from segmeter.harness.inputs import ResizeRule
from segmeter.harness.quality.datasets import Entry, PanopticSet
from segmeter.harness.quality.fields import member, rows, whole
from segmeter.harness.quality.instance_ap import NAMES, InstanceAP, instance_ap, read_truth
from segmeter.harness.quality.miou import MAX_CLASSES, MeanIoU, confusion, mean_iou
from segmeter.harness.quality.panoptic import PanopticPair, PanopticScore, Quality, score_pairs
from segmeter.harness.quality.png_ids import MAX_ID, read_segment_png
from segmeter.harness.quality.truth import instance_truth, semantic_truth

if TYPE_CHECKING:
    from segmeter.harness.models import ModelSpec

SCHEMA = "segmeter.quality/1"


@dataclass
class Scores:
    """What a folder of predictions scores; None for a kind of result that it does not hold.

    Attributes:
        images: number of images asked for.
        faults: images or predictions that could not be scored, one line each.
        notes: what else a reader should know, one line each.
    """

    images: int
    panoptic: PanopticScore | None = None
    semantic: MeanIoU | None = None
    instance: InstanceAP | None = None
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def score_folder(
    dataset: PanopticSet,
    entries: Sequence[Entry],
    folder: Path,
    processes: int | None = None,
    on_image: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Score a folder of predictions.

    Args:
        dataset: the ground truth.
        entries: the images to score.
        folder: holds ``panoptic.json`` with ``panoptic/``, ``instances.json``, ``semantic/``, or some.
        processes: for PQ; None for as many as the work is worth.
        on_image: told of each number of images whose PQ is done.

    Raises:
        ValueError: none of the three kinds of results, or a file that is not in its format.
        WorkerKilledError: a scoring process was killed.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder of predictions: {folder}")
    scores = Scores(len(entries), faults=list(dataset.faults))
    if (folder / "panoptic.json").exists():
        pairs, faults = _pairs(dataset, entries, folder)
        scores.faults += faults
        scores.panoptic = score_pairs(pairs, dataset.things, processes, on_image)
        scores.faults += scores.panoptic.faults
        scores.notes += [f"{count} {note}" for note, count in scores.panoptic.notes.items()]
    if (folder / "semantic").is_dir() and len(dataset.categories) > MAX_CLASSES:
        scores.notes.append(f"no mIoU: semantic pictures of 8 bits have at most {MAX_CLASSES} classes")
    elif (folder / "semantic").is_dir():
        scores.semantic = _score_semantic(dataset, entries, folder, scores.faults)
    if (folder / "instances.json").exists():
        scores.instance = _score_instances(dataset, entries, folder, scores)
    if scores.panoptic is None and scores.semantic is None and scores.instance is None:
        raise ValueError(
            f"{folder} holds no predictions: expected panoptic.json, instances.json or semantic/"
        )
    return scores


def quality_record(scores: Scores, dataset: PanopticSet, about: dict[str, Any]) -> dict[str, Any]:
    """Scores as a record, in percent as papers print them; what was not scored, or does not occur, is None.

    Args:
        scores: of :func:`score_folder`.
        dataset: what was scored.
        about: what made the predictions; its entries come first.
    """
    names = {category.id: category.name for category in dataset.categories}
    panoptic = scores.panoptic
    whole = panoptic.mean() if panoptic else None
    semantic, instance = scores.semantic, scores.instance
    # AP of boxes has names of its own: it is another figure than that of masks.
    prefix = "box_" if instance and instance.kind == "bbox" else ""
    masks = None if prefix else instance
    boxes = {f"box_{n}": _percent(v) for n, v in instance.summary.items()} if instance and prefix else {}
    per_class: dict[str, dict[str, Any]] = {}
    if panoptic:
        for category, quality in panoptic.per_class().items():
            per_class.setdefault(names[category], {}).update(_quality(quality) or {})
    if semantic:
        for named, iou in zip(dataset.categories, semantic.per_class.tolist(), strict=True):
            per_class.setdefault(named.name, {})["iou"] = _percent(iou)
    if instance:
        for category_id, ap in instance.per_class.items():
            if category_id in names:
                per_class.setdefault(names[category_id], {})[f"{prefix}ap"] = _percent(ap)
    return {
        "schema": SCHEMA,
        **about,
        "dataset": dataset.name,
        "split": dataset.split,
        "images": scores.images,
        "unit": "percent",
        "pq": _percent(whole.pq) if whole else None,
        "sq": _percent(whole.sq) if whole else None,
        "rq": _percent(whole.rq) if whole else None,
        "things": _quality(panoptic.mean(True)) if panoptic else None,
        "stuff": _quality(panoptic.mean(False)) if panoptic else None,
        **{name: _percent(masks.summary[name]) if masks else None for name in NAMES},
        **boxes,
        "miou": _percent(semantic.miou) if semantic else None,
        "pixel_accuracy": _percent(semantic.accuracy) if semantic else None,
        "per_class": per_class,
        "fault_count": len(scores.faults),
        "faults": scores.faults,
        "notes": scores.notes,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def model_cost(spec: "ModelSpec", entries: Sequence[Entry], rule: ResizeRule) -> dict[str, Any] | None:
    """A model's mean cost over the very images that are scored; None if their sizes are not annotated.

    Args:
        spec: the model.
        entries: the images.
        rule: how they are resized for the network.

    Returns:
        ``total_gmacs`` and ``encoder_gmacs`` as the papers count them, parameters, and what the mean is over.
    """
    from segmeter.harness.counting import count_dataset, flops_record
    from segmeter.harness.inputs import SizeSet, from_image

    known = [entry.size for entry in entries if entry.size is not None]
    if len(known) < len(entries):
        return None
    images = Counter(from_image(size, rule) for size in known)
    record = flops_record(count_dataset(spec, SizeSet("these", dict(images), "annotations"), "published"))
    return {
        "convention": record["convention"],
        "total_gmacs": record["total_gmacs"],
        "encoder_gmacs": record["components"]["encoder"]["gmacs"],
        "params": record["params"],
        "encoder_params": record["encoder_params"],
        "basis": f"mean over {len(known)} images" if len(images) > 1 else "every image has one size",
        "distinct_sizes": len(images),
    }


def process_group() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun set them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all(faults: list[str]) -> list[str]:
    """Join torchrun's processes when each has predicted its images; gives the faults of all of them."""
    import datetime

    import torch.distributed as dist

    world = process_group()[1]
    if world == 1:
        return faults
    # Ranks finish as far apart as their images take.
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=1))
    every: list[list[str]] = [[] for _ in range(world)]
    dist.all_gather_object(every, faults)
    dist.destroy_process_group()
    return [fault for part in every for fault in part]


def _pairs(
    dataset: PanopticSet, entries: Sequence[Entry], folder: Path
) -> tuple[list[PanopticPair], list[str]]:
    path = folder / "panoptic.json"
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f"{path} is not in COCO's panoptic format: no list named 'annotations'")
    predicted: dict[Any, tuple[Path, dict[int, int]]] = {}
    faults = []
    # More predictions than images to score is usual with a limit; an id of no image of the set is not.
    every = dataset.every
    for index, annotation in enumerate(annotations):
        try:
            image_id, png, segments, twice = _prediction(annotation, folder / "panoptic")
        except ValueError as error:
            raise ValueError(f"{path}: annotation {index}: {error}") from None
        if twice:
            faults.append(f"image {image_id}: predicted segment ids are given twice")
        elif image_id in predicted:
            faults.append(f"image {image_id}: predicted twice")
        elif image_id not in every:
            faults.append(f"image {image_id}: predicted, but the data set has no such image")
        predicted[image_id] = (png, segments)
    wanted = {entry.image_id for entry in entries}
    pairs = []
    for entry in entries:
        if entry.image_id not in predicted:
            faults.append(f"image {entry.image_id}: no panoptic prediction")
            continue
        png, segments = predicted[entry.image_id]
        pairs.append(PanopticPair(entry.image_id, entry.truth_png, png, entry.segments, segments, entry.size))
    if not wanted & set(predicted):
        some = ", ".join(repr(image_id) for image_id in list(predicted)[:3]) or "none"
        raise ValueError(f"{path} predicts none of the data set's images (its ids: {some})")
    return pairs, faults


def _prediction(annotation: Any, folder: Path) -> tuple[int | str, Path, dict[int, int], bool]:
    """Image id, file, category of each segment, and whether a segment stands twice."""
    image_id = plain_id(member(annotation, "image_id", "it"))
    png = inside(folder, member(annotation, "file_name", "it"), strict=True)
    listed = rows(annotation, "segments_info", "it")
    segments = {}
    for place, info in enumerate(listed):
        what = f"segment {place}"
        number = whole(member(info, "id", what), f"{what}: its id", 0, MAX_ID)
        segments[number] = whole(member(info, "category_id", what), f"{what}: its category")
    return image_id, png, segments, len(segments) != len(listed)


def _score_semantic(
    dataset: PanopticSet, entries: Sequence[Entry], folder: Path, faults: list[str]
) -> MeanIoU | None:
    size = len(dataset.categories)
    matrix = np.zeros((size, size + 1), dtype=np.int64)
    for entry in entries:
        try:
            path = inside(folder / "semantic", f"{entry.image_id}.png", strict=True)
            truth = semantic_truth(read_segment_png(entry.truth_png, entry.size), entry, dataset.class_of)
            matrix += confusion(truth, _read_classes(path, truth.shape), size)
        except ValueError as error:
            faults.append(f"image {entry.image_id}, semantic: {error}")
    return mean_iou(matrix)


def _read_classes(path: Path, size: tuple[int, ...]) -> np.ndarray:
    check_regular(path)
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.mode not in ("L", "P"):
                raise ValueError(f"{path} has mode {opened.mode}; a semantic PNG has one channel of 8 bits")
            if opened.size != (size[1], size[0]):
                raise ValueError(
                    f"the prediction is {opened.height}x{opened.width}, the ground truth {size[0]}x{size[1]}"
                )
            return np.asarray(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _score_instances(
    dataset: PanopticSet, entries: Sequence[Entry], folder: Path, scores: Scores
) -> InstanceAP:
    path = folder / "instances.json"
    predictions = read_json(path)
    if not isinstance(predictions, list) or not all(isinstance(p, dict) for p in predictions):
        raise ValueError(f"{path} is not in COCO's result format: a list of objects")
    if dataset.instances is not None:
        truth = read_truth(read_json(dataset.instances), dataset.instances)
    else:
        truth = _instances_of_panoptic(dataset, entries, scores.faults)
        scores.notes.append("AP is scored against the panoptic ground truth's things")
    known = {image["id"] for image in truth["images"]}
    unannotated = [entry.image_id for entry in entries if entry.image_id not in known]
    scores.faults += [f"image {image_id}: not in the instance annotations" for image_id in unannotated]
    wanted = {entry.image_id for entry in entries} & known
    # Predictions for images beyond a limit are not looked at.
    every = dataset.every
    chosen = []
    for index, prediction in enumerate(predictions):
        try:
            image_id = plain_id(member(prediction, "image_id", "it"))
        except ValueError as error:
            raise ValueError(f"{path}: prediction {index}: {error}") from None
        if image_id in wanted or image_id not in every:
            chosen.append(prediction)
    return instance_ap(truth, chosen, sorted(wanted))


def _instances_of_panoptic(
    dataset: PanopticSet, entries: Sequence[Entry], faults: list[str]
) -> dict[str, Any]:
    images, annotations = [], []
    for entry in entries:
        try:
            ids = read_segment_png(entry.truth_png, entry.size)
        except ValueError as error:
            faults.append(f"image {entry.image_id}, instances: {error}")
            continue
        images.append({"id": entry.image_id, "height": ids.shape[0], "width": ids.shape[1]})
        annotations += instance_truth(ids, entry, dataset.things)
    return {
        "images": images,
        "categories": [{"id": c.id, "name": c.name} for c in dataset.categories if c.isthing],
        # pycocotools takes an id of 0 for "no match".
        "annotations": [{"id": index, **a} for index, a in enumerate(annotations, start=1)],
    }


def _quality(quality: Quality | None) -> dict[str, Any] | None:
    if quality is None:
        return None
    return {
        "pq": _percent(quality.pq),
        "sq": _percent(quality.sq),
        "rq": _percent(quality.rq),
        **({"classes": quality.classes} if quality.classes > 1 else {}),
    }


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else 100 * fraction

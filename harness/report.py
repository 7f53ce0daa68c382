"""The main job's measurements: four models, on real photos and at the data sets' sizes."""

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from segmeter.encoders import ENCODERS
from segmeter.encoders.images import normalise, pad_to_multiple
from segmeter.harness.audit import RECORD_FOLDERS, audit_steps, run_audit
from segmeter.harness.counting import count_dataset, count_model, flops_record, versions
from segmeter.harness.inputs import COCO_RULE, Photo, Size, SizeSet, dataset_sizes, from_image, read_photo
from segmeter.harness.models import SEED, ModelSpec, model_spec, real_model
from segmeter.harness.records import FlopsRecord
from segmeter.harness.tokens import demo_record
from segmeter.harness.tradeoff import collect_figures

SCHEMA = "segmeter.report/2"
CONVENTION = "published"
DATASETS = ("cityscapes", "coco-val2017")
DATASET_CLASSES = {"cityscapes": 19, "coco-val2017": 133}
# Small enough that four forward passes on two CPU cores take seconds, not minutes.
FORWARD_SHORT_SIDE = 256
# Each takes seconds; `segmeter tokens` takes as many as one likes.
TOKEN_PHOTOS = 2


@dataclass(frozen=True)
class ForwardPass:
    """One real forward pass: proof that the model runs, not a benchmark."""

    model: str
    title: str
    photo: str
    input_size: Size
    seconds: float
    outputs: dict[str, tuple[int, ...]]
    weights: str
    device: str
    dtype: str
    threads: int


def report_specs(backbone: str, num_classes: int) -> list[ModelSpec]:
    """The four encoders with their default options on one backbone."""
    return [model_spec(name, backbone, num_classes=num_classes) for name in ENCODERS]


def run_report(
    photos: Sequence[Photo],
    backbone: str,
    step: Callable[[str], None] = lambda what: None,
    *,
    records_dir: Path | None = None,
    add: Path | None = None,
    command: str = "segmeter report",
) -> dict[str, Any]:
    """Measure everything the report shows.

    Args:
        photos: at least one; the first also goes through a real forward pass of each model.
        backbone: backbone of all four models.
        step: called before each step with a few words on it (:func:`count_steps` of them).
        records_dir: folder of timing and quality records to take in, or None for those of the repository.
        add: CSV of the user's own points, or None.
        command: what the report says it was made by.

    Returns:
        The report record: plain data, ready for JSON.

    Raises:
        ValueError: damaged published or own data; file, line and column named.
        OSError: a file or folder that is not there.
    """
    # First what may refuse the user's data: nothing is measured in vain.
    step("points and figures")
    figures = collect_figures(backbone, records_dir, add)
    forwards = []
    for spec in report_specs(backbone, DATASET_CLASSES["coco-val2017"]):
        step(f"forward pass of {spec.encoder_title}")
        forwards.append(asdict(forward_pass(spec, photos[0])))
    photo_sizes = _photo_sizes(photos)
    records: dict[str, list[FlopsRecord]] = {}
    for name in DATASETS:
        records[name] = []
        for spec in report_specs(backbone, DATASET_CLASSES[name]):
            step(f"{spec.encoder_title} at {name}")
            records[name].append(_count(spec, dataset_sizes(name)))
    for size_set in photo_sizes:
        step(f"photo {size_set.name}")
        records[size_set.name] = [
            _count(spec, size_set) for spec in report_specs(backbone, DATASET_CLASSES["coco-val2017"])
        ]
    step("token redundancy")
    tokens, tokens_missing = demo_record(photos[:TOKEN_PHOTOS])
    folders = RECORD_FOLDERS if records_dir is None else (*RECORD_FOLDERS, records_dir)
    audited = run_audit(step=step, records=folders)
    return {
        "schema": SCHEMA,
        "convention": CONVENTION,
        "backbone": backbone,
        "photos": [{"name": p.name, "size": list(p.size)} for p in photos],
        "forward_passes": forwards,
        "records": records,
        "audit": audited,
        "tokens": tokens,
        "tokens_missing": tokens_missing,
        "figures": figures,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": command,
        "versions": versions(),
    }


def count_steps(photos: Sequence[Photo]) -> int:
    """How often :func:`run_report` calls ``step``."""
    return len(ENCODERS) * (1 + len(DATASETS)) + len(photos) + 2 + audit_steps()


def _photo_sizes(photos: Sequence[Photo]) -> list[SizeSet]:
    return [SizeSet(photo.name, {from_image(photo.size, COCO_RULE): 1}, str(photo.name)) for photo in photos]


def _count(spec: ModelSpec, sizes: SizeSet) -> FlopsRecord:
    if len(sizes.images) == 1:
        size = next(iter(sizes.images))
        return flops_record(count_model(spec, size, CONVENTION))
    return flops_record(count_dataset(spec, sizes, CONVENTION))


def forward_pass(spec: ModelSpec, photo: Photo) -> ForwardPass:
    """Run one model with random weights on one photo, in float32 on the CPU, and time that one pass."""
    model = real_model(spec)
    scale = FORWARD_SHORT_SIDE / min(photo.size)
    size = (round(photo.size[0] * scale), round(photo.size[1] * scale))
    image = normalise(read_photo(photo, size))[None]
    padded = pad_to_multiple(image)
    start = time.perf_counter()
    with torch.inference_mode():
        output = model(padded, image_size=size, original_size=size)
    seconds = time.perf_counter() - start
    return ForwardPass(
        model=spec.text,
        title=spec.encoder_title,
        photo=photo.name,
        input_size=(padded.shape[-2], padded.shape[-1]),
        seconds=seconds,
        outputs={
            "class_logits": tuple(output.class_logits.shape),
            "masks": tuple(output.masks.shape),
            "semantic": tuple(output.semantic_map().shape),
        },
        weights=f"random, seed {SEED}",
        device="cpu",
        dtype="float32",
        threads=torch.get_num_threads(),
    )

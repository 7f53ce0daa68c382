"""Trade-off points as plain records: what a model costs and how good it is, with where both were read.

A point is a dict with the keys of :data:`KEYS`, None where a figure is missing:

- ``source``: "published" (all of it as printed), "measured" (its cost is segmeter's, its quality is a
  record's or as printed: ``note`` says which), or "own" (the user's file or model).
- ``gflops_encoder``, ``gflops_total``: in the papers' unit, 1e9 multiply-accumulates; ``encoder_basis`` and
  ``total_basis`` name the input they are for, ``speed_basis`` the machine of ``fps`` and ``latency_ms``.
  Figures of two bases are not to be compared; "" is an unknown basis, which compares with none. The user's
  own points have the basis :data:`OWN`, which compares with all.
- ``spread``: figure -> {"low", "high", "kind"} where one is known.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmeter.harness.counting.count import count_model
from segmeter.harness.inputs.sizes import ImageSize, Size, format_size
from segmeter.harness.models.spec import ModelSpec, model_spec
from segmeter.harness.published.cells import CITYSCAPES_SIZE, CLASSES, COCO_ENCODER_SIZES, FAMILY
from segmeter.harness.published.tables import PRO_SCALE, PublishedRow, published_rows

Point = dict[str, Any]
COSTS = ("gflops_encoder", "gflops_total", "fps", "latency_ms")
QUALITIES = ("pq", "miou", "ap")
FIGURES = (*COSTS, *QUALITIES)
KEYS = (
    *("label", "model", "encoder", "backbone", "dataset", "source", "paper", "reference", "command"),
    *FIGURES,
    *("spread", "size", "encoder_basis", "total_basis", "speed_basis", "convention", "note"),
)
TITLES = {
    "m2f": "M2F",
    "lite-m2f": "Lite-M2F",
    "rt-m2f": "RT-M2F",
    "pro-scale": "PRO-SCALE",
    "maskformer": "MaskFormer",
    "pem": "PEM",
    "yoso": "YOSO",
    "rap-sam": "RAP-SAM",
    "remax": "ReMaX",
    "maskclip": "MaskCLIP",
    "fc-clip": "FC-CLIP",
    "maskdino": "MaskDINO",
    "segmenter": "Segmenter",
    "segformer": "SegFormer",
    "segformer++": "Segformer++",
    "algm": "ALGM",
    "step": "STEP",
    "upsnet": "UPSNet",
    "lpsnet": "LPSNet",
    "fpsnet": "FPSNet",
    "bgrnet": "BGRNet",
    "pandeeplab": "Panoptic-DeepLab",
    "kmaxdeeplab": "kMaX-DeepLab",
    "realtimepan": "RealTimePan",
    "bisenetv1": "BiSeNetV1",
    "bisenetv2-l": "BiSeNetV2-L",
    "stdc1": "STDC1",
    "stdc2": "STDC2",
    "stdc1-seg75": "STDC1-Seg75",
    "stdc2-seg75": "STDC2-Seg75",
    "ddrnet-23": "DDRNet-23",
    "ddrnet-23-s": "DDRNet-23-S",
    "pidnet-s": "PIDNet-S",
    "pidnet-m": "PIDNet-M",
    "pidnet-l": "PIDNet-L",
}
MODIFIERS = {"+proscale": "+ PRO-SCALE", "+algm": "+ ALGM", "+lpe": "+ LPE", "-s1": "without s1"}
# One input for all: a 640x480 photo, the most frequent size of COCO, and Cityscapes' only size.
COMMON_SIZES = {
    "coco": ImageSize(padded=COCO_ENCODER_SIZES[0], original=(480, 640)),
    "cityscapes": ImageSize(padded=CITYSCAPES_SIZE, original=CITYSCAPES_SIZE),
}
# Table 8 repeats rows of Table 1 under the names of the detectors.
REPEATING_TABLES = {(PRO_SCALE, 8)}
# Open-vocabulary systems: Table 10 does not say for which input, and its figures contradict its caption.
UNKNOWN_INPUTS = {(PRO_SCALE, 10)}
UNIT = "published"
OWN = "own"
_AXES = {"gflops_encoder": "gflops-encoder", "gflops_total": "gflops-total", "fps": "fps"}
# How the data mark a cell that contradicts another one.
_CONTRADICTION = re.compile(r"README O\d+: ")


def all_points(records_dir: Path | None = None, add: Path | None = None) -> list[Point]:
    """Every point there is: published rows, measured counts, records on disk, the user's own.

    Args:
        records_dir: folder of timing and quality records, searched with its subfolders; damaged files are
            passed over (:func:`harness.tradeoff.records.read_records` names them).
        add: a CSV file of the user's own points; see :func:`harness.tradeoff.own.own_points`.

    Raises:
        ValueError: damaged published or own data; file, line and column named.
        OSError: a file or folder that is not there.
    """
    from segmeter.harness.tradeoff.own import own_points
    from segmeter.harness.tradeoff.records import read_records, record_points

    # The user's file first: what is wrong with it is told at once.
    own = own_points(add) if add is not None else []
    published = published_points()
    found = [*published, *measured_points(published)]
    if records_dir is not None:
        found += record_points(read_records(records_dir), published)
    return [*found, *own]


def point(**values: Any) -> Point:
    """A point with every key; what is not given is None, or "" for a text."""
    texts = {key: "" for key in KEYS if key not in (*FIGURES, "spread")}
    return {**dict.fromkeys(KEYS), **texts, **values}


def published_points() -> list[Point]:
    """Published rows as points.

    The PRO-SCALE paper prints a model in several tables: one that gives one more figure of a known point adds
    to it, one that gives another figure for the same thing makes a point of its own.
    """
    found: list[Point] = []
    for rows in _table_rows():
        new = _published(rows)
        # Only the PRO-SCALE paper prints one model in several tables; other sources train one for each.
        alike = [p for p in found if _same_system(p, new)] if new["paper"] == PRO_SCALE else []
        same = next((p for p in alike if _compatible(p, new)), None)
        if same is None:
            if alike:
                new["note"] = _joined(f"differs from {alike[0]['reference']}", new["note"])
            found.append(new)
            continue
        same["note"] = _joined(same["note"], *(n for n in [new["note"]] if n not in same["note"]))
        same["reference"] += f"; {new['reference'].partition(', ')[2]}"
        same.update({key: new[key] for key in FIGURES if same[key] is None})
        same["speed_basis"] = same["speed_basis"] or new["speed_basis"]
        for key in ("encoder_basis", "total_basis"):
            same[key] = same[key] or new[key]
        same["size"] = same["size"] or new["size"]
    return found


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def _table_rows() -> Iterator[list[PublishedRow]]:
    """The figures of one row of a table for one data set."""
    groups: dict[tuple[str, int, int, str, str], list[PublishedRow]] = {}
    for row in published_rows():
        if row.metric in FIGURES and row.dataset and (row.paper, row.table) not in REPEATING_TABLES:
            key = (row.paper, row.table, row.row, row.dataset, row.backbone)
            groups.setdefault(key, []).append(row)
    yield from groups.values()


def _published(rows: Sequence[PublishedRow]) -> Point:
    row = rows[0]
    figures: dict[str, float | None] = {r.metric: r.value for r in rows}
    spec = row_spec(row)
    size = _printed_size(spec, row, figures.get("gflops_encoder"))
    where = TITLES.get(row.paper, row.paper)
    known = (row.paper, row.table) not in UNKNOWN_INPUTS
    # COCO's totals are means over images, whatever one input the encoder's figure is from.
    total = "mean over images" if row.dataset == "coco" else size
    return point(
        label=_label(row, spec),
        model=spec.text if spec else "",
        encoder=row.model,
        backbone=row.backbone,
        dataset=row.dataset,
        source="published",
        paper=row.paper,
        reference=f"{where}, {row.place}",
        command=_printed_command(row, figures),
        size=size,
        encoder_basis=size if "gflops_encoder" in figures else "",
        total_basis=total if known and "gflops_total" in figures else "",
        speed_basis=f"published by {where}, {row.image_size}".rstrip(", ") if "fps" in figures else "",
        convention=UNIT,
        note="; ".join(
            dict.fromkeys(_CONTRADICTION.sub("", r.note) for r in rows if _CONTRADICTION.match(r.note))
        ),
        **figures,
    )


def _printed_command(row: PublishedRow, figures: Mapping[str, float | None]) -> str:
    """What shows a printed row: its table's audit, or a chart that it stands in; "" where neither does."""
    cost = next((_AXES[name] for name in COSTS if name in figures), None)
    quality = next((name for name in QUALITIES if name in figures), None)
    if row.paper == PRO_SCALE and cost:
        return f"segmeter audit --table {row.table}"
    if not cost or not quality:
        return ""
    return f"segmeter plot pareto --x {cost} --y {quality} --dataset {row.dataset} --paper {row.paper} --json"


def _label(row: PublishedRow, spec: ModelSpec | None) -> str:
    if spec is not None:
        weights = f" ({row.modifier})" if row.modifier.startswith("in21k") else ""
        return spec.encoder_title + weights
    title = TITLES.get(row.model, row.model)
    variant = f"({row.variant})" if row.variant else ""
    return " ".join(part for part in (title, MODIFIERS.get(row.modifier, row.modifier), variant) if part)


def _same_system(a: Point, b: Point) -> bool:
    return all(a[key] == b[key] for key in ("paper", "label", "model", "backbone", "dataset"))


def _compatible(a: Point, b: Point) -> bool:
    return all(a[key] is None or b[key] is None or a[key] == b[key] for key in FIGURES)


def _printed_size(spec: ModelSpec | None, row: PublishedRow, encoder: float | None) -> str:
    """The padded size that a row's encoder figure belongs to; on COCO it is solved for, "" where unknown."""
    if row.dataset != "coco":
        return row.image_size
    if spec is None or encoder is None:
        return ""

    def off(size: Size) -> float:
        figures = count_model(spec, ImageSize(size, size), UNIT).figures
        return abs(figures.of("encoder") / 1e9 - encoder)

    return format_size(min(COCO_ENCODER_SIZES, key=off))


def row_spec(row: PublishedRow) -> ModelSpec | None:
    """The model that a published row describes, or None where no encoder here has that structure."""
    if row.model not in FAMILY or row.dataset not in CLASSES or not row.backbone:
        return None
    options: dict[str, Any] = {}
    if row.variant:
        options["stages"] = tuple(int(p) for p in row.variant.split(","))
    if row.modifier in ("+lpe", "lpe max-pooling"):
        options["pixel_embedding"] = "lpe"
    elif row.modifier == "+s1":
        options["pixel_embedding"] = "conv"
    elif row.modifier == "lpe avg-pooling":
        options["pixel_embedding"] = "lpe-avg"
    elif row.modifier.startswith("trc eps="):
        options["recalibration_temperature"] = float(row.modifier.removeprefix("trc eps="))
    elif row.modifier and not row.modifier.startswith("in21k"):
        return None
    return model_spec(row.model, row.backbone, num_classes=CLASSES[row.dataset], **options)


def measured_points(published: Sequence[Point]) -> list[Point]:
    """The published points that print a cost, with their GFLOPs measured at one size for each data set."""
    found: dict[tuple[str, ...], Point] = {}
    for p in published:
        if not p["model"] or all(p[key] is None for key in COSTS):
            continue
        qualities = {key: p[key] for key in QUALITIES}
        key = (p["paper"], p["model"], p["dataset"], *(str(v) for v in qualities.values()))
        if key in found or any(_covers(f, p) for f in found.values()):
            continue
        found[key] = counted_point(p["model"], p["dataset"]) | {
            **qualities,
            "label": p["label"],
            "paper": p["paper"],
            "reference": p["reference"],
            "note": "GFLOPs measured, quality as printed",
        }
    return list(found.values())


def _covers(a: Point, b: Point) -> bool:
    """Whether ``a`` is the same model with the same qualities, and perhaps more of them."""
    same = all(a[key] == b[key] for key in ("paper", "model", "dataset"))
    return same and all(b[key] in (None, a[key]) for key in QUALITIES)


def counted_point(model: str, dataset: str, source: str = "measured", backbone: str | None = None) -> Point:
    """One model's GFLOPs at the data set's common size; no quality.

    Raises:
        ValueError: a model that cannot be read or counted, or a data set without a common size.
    """
    from segmeter.harness.models.spec import parse_model

    if dataset not in COMMON_SIZES:
        raise ValueError(f"measured GFLOPs are for {' and '.join(COMMON_SIZES)}, got {dataset!r}")
    # Only a model that the user named may be the user's own; others come from tables and records.
    spec = parse_model(model, backbone=backbone, num_classes=CLASSES[dataset], own=source == "own")
    size = COMMON_SIZES[dataset]
    padded, original = format_size(size.padded), format_size(size.original)
    return point(
        label=spec.encoder_title,
        model=spec.text,
        encoder=spec.encoder,
        backbone=spec.backbone,
        dataset=dataset,
        source=source,
        command=f"segmeter flops {spec.text} --padded-size {padded} --original-size {original} "
        f"--num-classes {CLASSES[dataset]}",
        size=padded,
        encoder_basis=padded,
        total_basis=padded,
        convention=UNIT,
        **_measure(spec, size),
    )


def _measure(spec: ModelSpec, size: ImageSize) -> dict[str, float | None]:
    figures = count_model(spec, size, UNIT).figures
    # A whole model of the user's own has no encoder to tell apart.
    encoder = figures.of("encoder") / 1e9 if spec.backbone else None
    return {"gflops_encoder": encoder, "gflops_total": figures.total / 1e9}

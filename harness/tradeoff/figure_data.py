"""The figures behind the figures: counts and points as plain records, each computed once.

Every function gives JSON-able data; GMACs are in the "published" convention at batch 1.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from segmeter.harness.counting import count_model, flops_record, layer_costs
from segmeter.harness.inputs import ImageSize, Size, format_size
from segmeter.harness.models import ModelSpec, parse_model
from segmeter.harness.published import CLASSES
from segmeter.harness.records import FlopsRecord
from segmeter.harness.tradeoff.collect import all_points
from segmeter.harness.tradeoff.counted import COMMON_SIZES, counted_point, figure_backbone
from segmeter.harness.tradeoff.point import Point
from segmeter.harness.tradeoff.realised import realised_savings
from segmeter.harness.tradeoff.records import read_records

SCHEMA = "segmeter.figures/1"
CONVENTION, UNIT = "published", "GMACs"
ENCODERS = ("m2f", "lite-m2f", "rt-m2f", "pro-scale")
# Cityscapes' shape from a quarter to one and a half of its sides.
RESOLUTIONS: tuple[Size, ...] = (
    (256, 512),
    (512, 1024),
    (768, 1536),
    (1024, 2048),
    (1280, 2560),
    (1536, 3072),
)
RESOLUTION_MODELS = ("m2f", "lite-m2f", "rt-m2f", "pro-scale", "pro-scale:stages=1,1,1")
LAYER_MODELS = ("m2f", "lite-m2f", "pro-scale", "pro-scale:stages=1,1,1")
COUNTED = ("gflops_encoder", "gflops_total", "encoder_basis", "total_basis", "size", "convention")
LPE_MODELS = ("m2f", "lite-m2f", "pro-scale")


def collect_figures(
    backbone: str = "swin-t",
    records_dir: Path | None = None,
    add: Path | None = None,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Data of every figure that a report shows.

    Args:
        backbone: of the figures that compare encoders.
        records_dir: folder of timing and quality records, or None.
        add: CSV of the user's own points, or None.
        models: the user's own models or encoders, to be shown beside the others.

    Raises:
        ValueError: bad own data or models. OSError: a file or folder that is not there.
    """
    return {
        "schema": SCHEMA,
        "backbone": backbone,
        "convention": CONVENTION,
        "unit": UNIT,
        "points": points_data(records_dir, add, models, backbone),
        "breakdown": breakdown_data(backbone, models),
        "resolution": resolution_data(backbone, models),
        "layers": layers_data(backbone),
        "lpe": lpe_data(backbone),
        "not_counted": not_counted_data(backbone, models),
        "realised": realised_data(records_dir, models),
    }


def points_data(
    records_dir: Path | None, add: Path | None, models: Sequence[str], backbone: str = "swin-t"
) -> list[dict[str, Any]]:
    """All trade-off points; own models are counted, and take their quality from a row of ``add``.

    A row names a model by its label: as it is written ("mine.py:MyEncoder"), or its name ("MyEncoder").
    """
    points = all_points(records_dir, add)
    for model in models:
        for dataset in COMMON_SIZES:
            counted = counted_point(model, dataset, source="own", backbone=backbone)
            named = [i for i, p in enumerate(points) if _is_of(p, model, counted)]
            for place in named:
                points[place] = _with_cost(points[place], counted)
            if not named:
                points.append(replace(counted, reference=model, note="no quality given: see --add"))
    return [asdict(p) for p in points]


def _is_of(p: Point, model: str, counted: Point) -> bool:
    """Whether a row of the user's file is about this model on this data set."""
    return p.source == "own" and p.dataset in ("", counted.dataset) and p.label in (model, counted.label)


def _with_cost(p: Point, counted: Point) -> Point:
    """A row of the user's file with the counted cost, unless it gives one."""
    given = p.gflops_encoder is not None or p.gflops_total is not None
    cost = {} if given else {key: getattr(counted, key) for key in COUNTED}
    return replace(p, dataset=counted.dataset, **cost)


def breakdown_data(backbone: str, models: Sequence[str] = ()) -> list[FlopsRecord]:
    """Records of the four encoders, and own models, at Cityscapes' size."""
    found = [_record(model, backbone, "cityscapes") for model in (*ENCODERS, *models)]
    # A model that is one of the four is drawn once.
    return list({record["model"]: record for record in found}.values())


def resolution_data(backbone: str, models: Sequence[str] = ()) -> dict[str, Any]:
    """Encoder cost at several sizes: ``series`` of {"label", "model", "gmacs", "own", "what"}."""
    series = []
    for name in (*RESOLUTION_MODELS, *models):
        spec = _spec(name, backbone, own=name in models)
        # A whole model of the user's own has no encoder to tell apart.
        part = "encoder" if spec.backbone else "total"
        gmacs = [_part(spec, size, part) for size in RESOLUTIONS]
        label = spec.encoder_title if part == "encoder" else f"{spec.title} (whole model)"
        series.append(
            {"label": label, "model": spec.text, "gmacs": gmacs, "own": name in models, "what": part}
        )
    return {
        "sizes": [format_size(size) for size in RESOLUTIONS],
        "pixels": [height * width for height, width in RESOLUTIONS],
        "backbone": backbone,
        "series": series,
    }


def layers_data(backbone: str) -> dict[str, Any]:
    """Cost of each encoder layer, split over the levels of its tokens, at Cityscapes' size."""
    size = COMMON_SIZES["cityscapes"]
    return {
        "size": format_size(size.padded),
        "levels": ["s4 (1/32)", "s3 (1/16)", "s2 (1/8)"],
        "encoders": [layer_costs(_spec(m, backbone), size) for m in LAYER_MODELS],
    }


def lpe_data(backbone: str) -> list[dict[str, Any]]:
    """Encoder cost with the 3x3 convolution and with LPE, at Cityscapes' size."""
    found = []
    for model in LPE_MODELS:
        with_conv, with_lpe = (_spec(f"{model}:pixel_embedding={kind}", backbone) for kind in ("conv", "lpe"))
        padded = COMMON_SIZES["cityscapes"].padded
        found.append(
            {
                "label": _spec(model, backbone).encoder_title,
                "conv": _part(with_conv, padded, "encoder"),
                "lpe": _part(with_lpe, padded, "encoder"),
                "size": format_size(padded),
                "backbone": backbone,
            }
        )
    return found


def not_counted_data(backbone: str, models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What the published convention leaves out of each whole model, GMACs, at Cityscapes' size."""
    return [
        {
            "label": r["encoder_title"],
            "model": r["model"],
            "total": r["total_gmacs"],
            "not_counted": r["not_counted"],
            "reasons": r["not_counted_reasons"],
            "size": r["size"],
        }
        for r in breakdown_data(backbone, models)
    ]


def realised_data(records_dir: Path | None, models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Claimed beside realised savings from timing records; see :mod:`harness.tradeoff.realised`."""
    if records_dir is None:
        return []
    return realised_savings([run for _, run in read_records(records_dir).runs], models)


def _spec(model: str, backbone: str, dataset: str = "cityscapes", own: bool = False) -> ModelSpec:
    """A model on a backbone, unless it names its own or is a whole model of the user's."""
    taken = figure_backbone(model, backbone)
    return parse_model(model, backbone=taken, num_classes=CLASSES[dataset], own=own)


@lru_cache(maxsize=64)
def _record(model: str, backbone: str, dataset: str) -> FlopsRecord:
    spec = _spec(model, backbone, dataset, own=True)
    return flops_record(count_model(spec, COMMON_SIZES[dataset], CONVENTION))


def _part(spec: ModelSpec, padded: Size, part: str) -> float:
    figures = count_model(spec, ImageSize(padded, padded), CONVENTION).figures
    return (figures.total if part == "total" else figures.of(part)) / 1e9

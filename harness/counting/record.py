"""From counts to records: the one place where a count meets its spec, size and versions."""

import platform
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from segmeter.harness.counting.conventions import CONVENTIONS, OMISSIONS, UNITS, Figures
from segmeter.harness.counting.count import DatasetCount, ModelCount, Spread
from segmeter.harness.counting.counter import UnknownOp
from segmeter.harness.inputs import format_size
from segmeter.harness.models import ModelSpec, inputs_of
from segmeter.harness.records import GIGA, SCHEMA, FlopsRecord, component_tree
from segmeter.harness.records import Spread as SpreadRecord

NO_FORMULA = "no formula for this operator; register one, or read its share as unknown"


def flops_record(counted: ModelCount | DatasetCount) -> FlopsRecord:
    """The record of one model's cost, at one size or as a data set's mean."""
    record = bare_record(counted.spec, counted.figures, counted.params, counted.encoder_params)
    if counted.figures.least != counted.figures.most:
        record["range"] = [counted.figures.least / GIGA, counted.figures.most / GIGA]
    if isinstance(counted, ModelCount):
        size = counted.size
        record["size"] = format_size(size.padded)
        record["padded_size"] = list(size.padded)
        record["original_size"] = list(size.original)
        inputs = inputs_of(counted.spec)
        if inputs is not None:
            record["inputs"] = inputs.described(size.padded)
            record["traps"] = list(counted.traps)
            record["inputs_from"] = inputs.source if inputs.size == size.padded else "given"
        if counted.spread is not None:
            record["input_dependent"] = counted.reason
            record["spread"] = {"total": _spread(counted.spread)}
        return record
    sizes = counted.sizes
    record["size"] = f"mean over {sizes.total} images of {sizes.name}"
    padded = [s.padded for s in sizes.images]
    record["dataset"] = {
        "name": sizes.name,
        "source": sizes.source,
        "images": sizes.total,
        "distinct_sizes": len(sizes.images),
        "distinct_padded_sizes": len(set(padded)),
        "mean_padded_pixels": sum(s.padded[0] * s.padded[1] * n for s, n in sizes.images.items())
        / sizes.total,
        "mean_original_pixels": sum(s.original[0] * s.original[1] * n for s, n in sizes.images.items())
        / sizes.total,
    }
    record["spread"] = {
        "total": _spread(counted.total),
        **{part: _spread(spread) for part, spread in counted.parts.items()},
    }
    return record


def bare_record(spec: ModelSpec, figures: Figures, params: int, encoder_params: int) -> FlopsRecord:
    """What every record of a cost says; its size is not filled in."""
    reasons = {omission.name: omission.reason for omission in OMISSIONS}
    record: FlopsRecord = {
        "schema": SCHEMA,
        "model": spec.text,
        "title": spec.title,
        "encoder": spec.encoder,
        "encoder_title": spec.encoder_title,
        "encoder_options": dict(spec.options),
        "backbone": spec.backbone,
        "num_classes": spec.num_classes,
        "num_queries": spec.num_queries,
        "convention": figures.convention,
        "convention_text": CONVENTIONS[figures.convention],
        "unit": UNITS[figures.convention],
        "total_gmacs": figures.total / GIGA,
        "components": component_tree(figures.by_component),
        "by_operator": {name: units / GIGA for name, units in figures.by_operator.items()},
        "not_counted": {
            name: None if units is None else units / GIGA for name, units in figures.not_counted.items()
        },
        "not_counted_reasons": {
            name: reasons[name] if name in reasons else _no_formula(name, figures.unknown)
            for name in figures.not_counted
        },
        "coverage": figures.coverage,
        "params": params,
        "encoder_params": encoder_params,
        "size": "",
        "padded_size": None,
        "original_size": None,
        "versions": versions(),
    }
    if figures.moves and figures.convention != "published":
        record["moved"] = dict(figures.moves)
    if figures.without_macs and figures.convention == "macs":
        record["without_macs_gflops"] = {name: units / GIGA for name, units in figures.without_macs.items()}
    return record


def _no_formula(operator: str, unknown: Sequence[UnknownOp]) -> str:
    """Where an operator without a formula ran, and on what shapes."""
    found = [u for u in unknown if u.operator == operator]
    if not found:
        return NO_FORMULA
    shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in found[0].shapes)
    calls = sum(u.calls for u in found)
    where = found[0].module or "the model itself"
    return f"{NO_FORMULA}; {calls}x, first in {where} on {shapes or 'no tensors'}"


def _spread(spread: Spread) -> SpreadRecord:
    return {
        "mean": spread.mean / GIGA,
        "std": spread.std / GIGA,
        "min": spread.low / GIGA,
        "max": spread.high / GIGA,
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of everything a count depends on."""
    found = {"python": platform.python_version()}
    for package in ("segmeter", "torch", "torchvision", "timm", "fvcore", "ptflops", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found

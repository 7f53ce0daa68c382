"""Make a card: every convention's cost in whole numbers, component by component, and what a run took."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.card.photos import count_photos, whole
from segmeter.harness.counting import CONVENTIONS, count_model, versions, why_photos
from segmeter.harness.counting import flops_record as record_of
from segmeter.harness.inputs import ImageSize, Photo
from segmeter.harness.models import ModelSpec, inputs_of
from segmeter.harness.records import (
    CARD_SCHEMA,
    Card,
    CardModel,
    Cost,
    Measured,
    NotCounted,
    Run,
    check_sum,
    now,
)
from segmeter.harness.weights import load_model
from segmeter.model_text import is_source, library_name

UNITS = {"published": "MACs", "macs": "MACs", "flops": "FLOPs"}
# Of a record's settings what a second run must share; the rest is text on the method.
SETTINGS = (
    *("device", "dtype", "tf32", "batch", "padded_size", "threads", "compile", "cuda_graph", "keep_memory"),
    "inputs",
)
MEMORY = (
    *("parameter_bytes", "activation_bytes", "peak_rss_over_start_bytes", "start_rss_bytes"),
    *("peak_allocated_bytes", "peak_reserved_bytes"),
    *("peak_allocated_over_start_bytes", "peak_reserved_over_start_bytes"),
)
LATENCY = ("median", "low", "high", "samples")


def make_card(
    specs: Sequence[ModelSpec],
    sizes: Sequence[ImageSize],
    runs: Sequence[Run] = (),
    step: Callable[[str], None] = lambda what: None,
    photos: Sequence[Photo] = (),
    weights: Path | None = None,
) -> Card:
    """Count models and put them on a card.

    Args:
        specs: the models.
        sizes: of each its input.
        runs: of each its measurement; none at all where nothing was timed.
        step: called with each model's title before it is counted.
        photos: what models whose work depends on the image are counted on.
        weights: a checkpoint for them; random weights from one seed without one.

    Raises:
        ValueError: a model whose work depends on what the image shows and no photos, or that cannot be built.
    """
    models = []
    for place, (spec, size) in enumerate(zip(specs, sizes, strict=True)):
        step(spec.title)
        models.append(card_model(spec, size, measured(runs[place]) if runs else None, photos, weights))
    return {
        "schema": CARD_SCHEMA,
        "made": now(),
        "made_with": dict(versions()),
        "models": models,
    }


def card_model(
    spec: ModelSpec,
    size: ImageSize,
    taken: Measured | None = None,
    photos: Sequence[Photo] = (),
    weights: Path | None = None,
) -> CardModel:
    """One model of a card.

    Raises:
        ValueError: as :func:`make_card`.
    """
    reason = why_photos(spec, size)
    if reason and not photos:
        raise ValueError(
            f"{spec.title} has no card without photos: {reason}, and a card holds whole numbers that "
            "anybody can count again; name photos with --images"
        )
    if reason:
        return _on_photos(spec, size, taken, photos, reason, weights)
    costs: list[Cost] = []
    counted = None
    for convention in CONVENTIONS:
        counted = count_model(spec, size, convention)
        figures, record = counted.figures, record_of(counted)
        not_counted: dict[str, NotCounted] = {
            name: {
                "amount": None if units is None else whole(units),
                "reason": record["not_counted_reasons"][name],
            }
            for name, units in figures.not_counted.items()
        }
        cost: Cost = {
            "convention": convention,
            "text": CONVENTIONS[convention],
            "unit": UNITS[convention],
            "total": whole(figures.total),
            "components": {name: whole(units) for name, units in figures.by_component.items()},
            "not_counted": not_counted,
            "source": "counted on tensors without values, by closed forms",
        }
        if figures.least != figures.most:
            cost["range"] = [whole(figures.least), whole(figures.most)]
        check_sum(spec.text, cost)
        costs.append(cost)
    assert counted is not None
    return _model(spec, size, costs, (counted.params, counted.encoder_params), taken)


def _on_photos(
    spec: ModelSpec,
    size: ImageSize,
    taken: Measured | None,
    photos: Sequence[Photo],
    reason: str,
    weights: Path | None,
) -> CardModel:
    model = None
    if weights is not None:
        model, spec, _ = load_model(weights, spec)
    entry, together, params = count_photos(spec, size, photos, reason, model, weights)
    costs: list[Cost] = []
    for convention, found in together.items():
        cost: Cost = {
            "convention": convention,
            "text": CONVENTIONS[convention],
            "unit": UNITS[convention],
            "total": found["total"],
            "components": found["components"],
            "not_counted": found["not_counted"],
            "source": f"counted on {len(photos)} photos, of all of them together",
        }
        check_sum(spec.text, cost)
        costs.append(cost)
    return {**_model(spec, size, costs, params, taken), "photos": entry}


def _model(
    spec: ModelSpec, size: ImageSize, costs: list[Cost], params: tuple[int, int], taken: Measured | None
) -> CardModel:
    given: dict[str, Any] = {
        "padded_size": list(size.padded),
        "original_size": list(size.original),
        "batch": 1,
    }
    inputs = inputs_of(spec)
    if inputs is not None:
        given["tensors"] = inputs.described(size.padded)
    return {
        "model": spec.text,
        "title": spec.title,
        "kind": _kind(spec),
        "num_classes": spec.num_classes,
        "num_queries": spec.num_queries,
        "input": given,
        "cost": costs,
        "parameters": {
            "total": params[0],
            "encoder": params[1],
            "source": "counted, a shared parameter once",
        },
        "measured": taken,
    }


def measured(run: Run) -> Measured:
    """What a card says of a measurement.

    Raises:
        ValueError: it has no time.
    """
    latency = run.statistics.get("latency_ms", {})
    if run.status != "ok" or any(not latency.get(name) for name in LATENCY):
        raise ValueError(f"record {run.id} has no time with an interval")
    notes, figures = run.notes, run.figures
    return {
        "record": run.id,
        "time": run.time,
        "settings": {name: run.settings.get(name) for name in SETTINGS},
        "latency_ms": {name: latency[name] for name in LATENCY},
        "images_per_s": figures.get("fps"),
        "components_ms": {
            name: {"ms": part.get("ms"), "low": part.get("ms_low"), "high": part.get("ms_high")}
            for name, part in run.components.items()
        },
        "memory": {
            **{name: figures[name] for name in MEMORY if figures.get(name) is not None},
            "source": notes.get("memory", "measured around one call"),
        },
        "energy": {
            "joules_per_image": figures.get("joules_per_image"),
            "watts": figures.get("watts"),
            "source": notes.get("energy", "not measured"),
        },
        "environment": run.environment,
        "source": f"measured: {run.settings.get('method', 'see the record')}",
    }


def _kind(spec: ModelSpec) -> str:
    """Whose model it is: what somebody else can count again by its name alone, and what not."""
    options: Mapping[str, Any] = dict(spec.options)
    if is_source(str(options.get(spec.system.code_option, ""))):
        return "own code"
    if library_name(spec.encoder):
        return "library"
    return "segmeter" if spec.encoder in SYSTEMS else "own code"

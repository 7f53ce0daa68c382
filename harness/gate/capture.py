"""Take a model's snapshot: count it and list its modules."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from segmeter.harness.counting import Count, see, units_of
from segmeter.harness.gate.snapshot import ModuleCost, Snapshot
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import ModelSpec, component_finder, structure_of

# Shapes of a module's inputs that a snapshot keeps; the first few tell what changed.
MOST_INPUTS = 6


def take_snapshot(
    spec: ModelSpec,
    size: ImageSize,
    convention: str,
    patterns: Mapping[str, str] | None = None,
) -> tuple[Snapshot, nn.Module]:
    """Count a model at one size; returns the model too, for the places of its classes in the source.

    A model whose work depends on its input is counted on the two photos at hand; figures are then means,
    rounded to whole units.

    Args:
        patterns: component names for module-path patterns, tried before the model's own; for an own encoder
            the paths are the encoder's.

    Raises:
        ValueError: the model cannot be built or run.
    """
    seen = see(spec, size)
    # An encoder of the user's own is written without the model that segmeter builds around it.
    at = spec.system.own_part or ""
    return snapshot_of(spec.text, size, convention, seen.counts, seen.model, patterns, at), seen.model


def snapshot_of(
    text: str,
    size: ImageSize | None,
    convention: str,
    counts: Sequence[Count],
    model: nn.Module,
    patterns: Mapping[str, str] | None = None,
    at: str = "",
) -> Snapshot:
    """A snapshot from the counts of a model on one or more inputs of one size.

    ``patterns`` and ``at`` are as :func:`harness.models.components.component_finder` takes them.
    """
    find = component_finder(model, patterns, at)
    modules = _modules(counts, model, find, convention)
    return Snapshot(
        model=text,
        size=format_size(size.padded) if size else "",
        convention=convention,
        total=sum(cost.work for cost in modules.values()),
        params=sum(cost.params for cost in modules.values()),
        activation_bytes=round(sum(count.activation_bytes for count in counts) / len(counts)),
        modules=modules,
        uncounted=_uncounted(counts),
    )


def _modules(
    counts: Sequence[Count], model: nn.Module, find: Callable[[str], str], convention: str
) -> dict[str, ModuleCost]:
    work: dict[str, int] = {}
    for count in counts:
        for each in count.work:
            units = units_of(each, find(each.module), convention)
            work[each.module] = work.get(each.module, 0) + units
    structure = structure_of(model)
    lost = work.keys() - {fact.path for fact in structure}
    if lost:
        raise AssertionError(f"work of {', '.join(sorted(lost))} belongs to no module of the model")
    runs = {run.module: run for run in counts[0].runs}
    found = {}
    for fact in structure:
        units = round(work.get(fact.path, 0) / len(counts))
        if not units and not fact.weights:
            continue
        run = runs.get(fact.path)
        found[fact.path] = ModuleCost(
            kind=fact.kind,
            weights=fact.weights,
            params=fact.params,
            work=units,
            calls=run.calls if run else 0,
            inputs=" ".join(map(_shape, run.inputs[:MOST_INPUTS])) if run else "",
            output=_shape(run.output) if run and run.output else "",
            component=find(fact.path),
        )
    return found


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _uncounted(counts: Sequence[Count]) -> dict[str, str]:
    """Operators without a formula on any input: calls, the first module and its shapes, in words."""
    found: dict[str, str] = {}
    calls: dict[str, int] = {}
    for unknown in (each for count in counts for each in count.unknown):
        calls[unknown.operator] = calls.get(unknown.operator, 0) + unknown.calls
        shapes = " ".join(map(_shape, unknown.shapes))
        found.setdefault(
            unknown.operator, f"first in {unknown.module or 'the model itself'} on {shapes or 'no tensors'}"
        )
    return {name: f"{calls[name]}x, {found[name]}" for name in sorted(found)}

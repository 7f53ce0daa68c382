"""A model's work beside fvcore's count of the authors' code, component by component, operator by operator."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from segmeter.encoders.chain import Sizes
from segmeter.harness.counting.conventions import published_place, units_of
from segmeter.harness.counting.work import work_of
from segmeter.harness.crosscheck.quirks import einsum_macs
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.spec import ModelSpec
from segmeter.harness.models.stages import find_components, meta_stages

# fvcore's name of an operator -> ours; what is a matrix product there may be attention's here.
FAMILIES = {
    "upsample_bilinear2d": "upsample_bilinear",
    "upsample_nearest2d": "upsample_nearest",
    "adaptive_avg_pool2d": "pooling",
    "linear": "matmul",
    "bmm": "matmul",
    "einsum": "matmul",
    "attention_scores": "matmul",
    "attention_values": "matmul",
}


def by_family(operators: Mapping[str, float]) -> dict[str, float]:
    """Work by the operator's family."""
    families: defaultdict[str, float] = defaultdict(float)
    for name, units in operators.items():
        families[FAMILIES.get(name, name)] += units
    return dict(families)


def counted(
    spec: ModelSpec, size: tuple[int, int], exact: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Component -> family of operators -> GMACs in the published convention.

    Einsums are read as fvcore reads them, but for those of ``exact`` stages.
    """
    image = ImageSize(size, size)
    find = find_components(spec)
    work: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for each in work_of(spec, image).work:
        component = find(each.module)
        units = units_of(each, component, "published")
        if units:
            component = published_place(component, each.operator)
            work[component.partition(".")[0]][each.operator] += units / 1e9
    for stage, rounding in einsum_rounding(spec, size).items():
        if stage not in exact:
            work[stage]["einsum"] += rounding / 1e9
    return {component: by_family(operators) for component, operators in work.items()}


def einsum_rounding(spec: ModelSpec, size: tuple[int, int]) -> dict[str, float]:
    """Stage -> what fvcore's four digits add to the MACs of its einsums."""
    value: Any = torch.empty((1, 3, *size), device="meta")
    added = {}
    for stage, module in meta_stages(spec):
        with torch.no_grad(), _Einsums() as mode:
            value = stage.call(module, value, Sizes(size, size, size))
        added[stage.name] = mode.added
    return added


class _Einsums(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.added = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.functional.einsum:
            macs = einsum_macs(args[0], [tuple(t.shape) for t in args[1:]])
            # fvcore reads the FLOPs that numpy prints with four digits, and halves them.
            self.added += float(f"{2 * macs:.3e}") / 2 - macs
        return func(*args, **(kwargs or {}))

"""The Python interface: count a module, compare two counts, hold a module to a budget.

>>> import torch
>>> narrow = count(torch.nn.Linear(8, 16), (4, 8))   # a shape: counted on meta tensors
>>> narrow.macs, narrow.params
(512, 144)
>>> wide = count(torch.nn.Linear(8, 32), (4, 8))
>>> wide.diff(narrow).macs
512
>>> print(wide.diff(narrow))
+512 MACs, +144 parameters
the model itself: Linear weight 16x8, bias 16 became weight 32x8, bias 32 [+512 MACs, +144 parameters]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.budgets import Limit, ModelBudget, parse_limit
from harness.capture import snapshot_of
from harness.changes import Change, changes_between
from harness.counter import Count as Work
from harness.counter import run_and_count
from harness.gate import WITHIN, Measured, Verdict, judge
from harness.meta_ops import forget_costs
from harness.op_costs import register_formula
from harness.snapshot import Snapshot
from harness.structure import meta_copy


class OverBudgetError(AssertionError):
    """A model costs more than its budget; the message names the figures and what moved them."""


@dataclass(frozen=True)
class Difference:
    """What lies between two counts. Figures are whole numbers, positive where the newer one costs more."""

    macs: int
    params: int
    activation_bytes: int
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        lines = [_figures(self.macs, self.params) or "no difference in cost"]
        for change in self.changes:
            lines.append(f"{change.text} [{_figures(change.work, change.params) or 'no cost'}]")
        return "\n".join(lines)


@dataclass(frozen=True)
class Count:
    """What one forward pass of a module costs.

    Attributes:
        macs: multiply-accumulates, norms and resizing at fvcore's weights.
        flops: floating-point operations, elementwise work included.
        params: parameters; a shared one counts once.
        activation_bytes: bytes that operators with multiply-accumulates write.
        components: component (module path, unless the module describes itself) -> MACs of its own.
        not_counted: operators without a formula -> how often they ran, where, and on what shapes.
        snapshot: all of it by module, as a baseline file holds it.
    """

    macs: int
    flops: int
    params: int
    activation_bytes: int
    components: dict[str, int]
    not_counted: dict[str, str]
    snapshot: Snapshot

    def diff(self, other: "Count") -> Difference:
        """What this count has more than an ``other``, older one, attributed to modules."""
        return Difference(
            self.macs - other.macs,
            self.params - other.params,
            self.activation_bytes - other.activation_bytes,
            tuple(changes_between(other.snapshot, self.snapshot)),
        )


def count(model: nn.Module, inputs: Any, components: Mapping[str, str] | None = None) -> Count:
    """Count one forward pass, in eval mode and without gradients.

    Args:
        model: any module; it is left as it was.
        inputs: a shape such as ``(1, 3, 224, 224)`` (counted on meta tensors, on a copy without weights), a
            tensor, a tuple or list of positional arguments, or a dict of keyword arguments. Tensors must be
            on the model's device.
        components: module-path pattern -> component name, e.g. ``{"layers.*.ffn": "ffn"}``.

    Raises:
        DataDependentError: counted on meta, but the work depends on the input's values.
    """
    module, work = _run(model, inputs)
    snapshot = snapshot_of(type(module).__name__, None, "macs", (work,), module, components)
    return Count(
        macs=snapshot.total,
        flops=work.flops,
        params=snapshot.params,
        activation_bytes=snapshot.activation_bytes,
        components={name: units for name, units in snapshot.components.items() if units},
        not_counted=snapshot.uncounted,
        snapshot=snapshot,
    )


def register_op(operator: str, macs: Callable[..., int]) -> None:
    """Give an operator of your own a cost, in one line.

    Args:
        operator: its qualified name, e.g. ``mylib::fused_ffn``.
        macs: takes the operator's positional arguments and returns its multiply-accumulates; tensors may
            be on meta, so read their shapes only.

    Raises:
        ValueError: not such a name, or segmeter has a formula for it.

    >>> register_op("mylib::gated_sum", lambda x, gate: 2 * x.numel())
    """
    register_formula(operator, macs)
    forget_costs()


def assert_within_budget(
    model: nn.Module,
    inputs: Any,
    *,
    total: str | int | None = None,
    params: str | int | None = None,
    activations: str | int | None = None,
    limits: Mapping[str, str | int] | None = None,
    baseline: Snapshot | None = None,
    allow_uncounted: tuple[str, ...] = (),
    name: str = "model",
) -> Count:
    """Raise unless a module's cost is within limits written as in a budget file.

    Args:
        model: any module.
        inputs: as :func:`count` takes them.
        total: at most so many MACs, e.g. "4.2 GMACs" or "+1 %" of the baseline.
        params: at most so many parameters, e.g. "26 M".
        activations: at most so many activation bytes, e.g. "300 MB".
        limits: component or module pattern -> at most so many MACs.
        baseline: an earlier ``count(...).snapshot``.
        allow_uncounted: operators without a formula that may appear.
        name: what the message calls the model.

    Raises:
        OverBudgetError: over a limit, or an operator without a formula ran.
        ValueError: a limit that cannot be read, names no component, or is relative without a baseline.
    """
    counted = count(model, inputs)
    given = {"total": total, "params": params, "activations": activations, **(limits or {})}
    read: dict[str, Limit] = {k: parse_limit(k, v) for k, v in given.items() if v is not None}
    budget = ModelBudget(name, counted.snapshot.model, limits=read, allow_uncounted=allow_uncounted)
    verdicts, _ = judge(Measured(budget, counted.snapshot, model), baseline)
    bad = [verdict for verdict in verdicts if verdict.status != WITHIN]
    if bad:
        raise OverBudgetError("\n".join(_sentence(verdict) for verdict in bad))
    return counted


def _sentence(verdict: Verdict) -> str:
    if verdict.detail:
        return f"{verdict.model}: {verdict.what} has no formula and is not counted: {verdict.detail}"
    text = f"{verdict.model}: {verdict.what} {verdict.now:,} {verdict.unit}, limit {verdict.most:,}"
    if verdict.before is not None:
        text += f", baseline {verdict.before:,}"
    return "; ".join([text, *(cause.text for cause in verdict.causes)])


def _run(model: nn.Module, inputs: Any) -> tuple[nn.Module, Work]:
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    module: nn.Module = getattr(model, "_orig_mod", model)
    if isinstance(inputs, tuple | list) and inputs and all(isinstance(side, int) for side in inputs):
        module = meta_copy(module)
        arguments = (torch.empty(tuple(inputs), device="meta"),)
    elif isinstance(inputs, Mapping):
        keywords = dict(inputs)
    else:
        arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        return module, run_and_count(module, *arguments, **keywords)[1]
    finally:
        for each in training:
            each.training = True


def _figures(macs: int, params: int) -> str:
    parts = [f"{macs:+,} MACs"] if macs else []
    return ", ".join(parts + ([f"{params:+,} parameters"] if params else []))

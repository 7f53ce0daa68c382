"""Count the work of one forward pass, module by module, on meta or real tensors.

The counter watches torch's dispatcher, so it sees what runs, however the model is written. Attention is
taken one level higher (``scaled_dot_product_attention``), because below that each device and torch version
runs other operators. Nothing it has no formula for is dropped: such operators are listed with their shapes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.meta_ops import run_op
from harness.op_costs import Cost, attention_costs

ATTENTION = torch.nn.functional.scaled_dot_product_attention


@dataclass(frozen=True)
class Work:
    """All calls of one operator inside one module (``module`` is its dotted path, "" the root)."""

    module: str
    operator: str
    calls: int
    macs: int
    flops: int


@dataclass(frozen=True)
class UnknownOp:
    """An operator without a formula: how often it ran where, and the shapes of its first call."""

    module: str
    operator: str
    calls: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Count:
    """The work of one forward pass. Figures are integers: MACs and FLOPs as in :mod:`harness.op_costs`."""

    work: tuple[Work, ...] = ()
    unknown: tuple[UnknownOp, ...] = ()

    @property
    def macs(self) -> int:
        """All multiply-accumulates, norms and upsampling at fvcore's weights."""
        return sum(w.macs for w in self.work)

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return sum(w.flops for w in self.work)

    def under(self, prefix: str) -> "Count":
        """The same work with ``prefix`` put before every module path."""

        def joined(path: str) -> str:
            return f"{prefix}.{path}" if path else prefix

        return Count(
            tuple(Work(joined(w.module), w.operator, w.calls, w.macs, w.flops) for w in self.work),
            tuple(UnknownOp(joined(u.module), u.operator, u.calls, u.shapes) for u in self.unknown),
        )

    def __add__(self, other: "Count") -> "Count":
        return Count(self.work + other.work, self.unknown + other.unknown)


@dataclass
class _Ledger:
    """What the modes write into while the model runs."""

    path: list[str] = field(default_factory=lambda: [""])
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    macs: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    flops: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    unknown_calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown_shapes: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    muted: bool = False

    def record(self, costs: list[Cost]) -> None:
        for cost in costs:
            key = (self.path[-1], cost.operator)
            self.calls[key] += 1
            self.macs[key] += cost.macs
            self.flops[key] += cost.flops

    def record_unknown(self, name: str, args: Any) -> None:
        key = (self.path[-1], name)
        self.unknown_calls[key] += 1
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
        self.unknown_shapes.setdefault(key, shapes)

    def count(self) -> Count:
        work = tuple(
            Work(module, operator, calls, self.macs[module, operator], self.flops[module, operator])
            for (module, operator), calls in self.calls.items()
        )
        unknown = tuple(
            UnknownOp(module, name, calls, self.unknown_shapes[module, name])
            for (module, name), calls in self.unknown_calls.items()
        )
        return Count(work, unknown)


class _Dispatches(TorchDispatchMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, costs = run_op(func, args, kwargs or {})
        if not self.ledger.muted:
            if costs is None:
                self.ledger.record_unknown(func._schema.name, args)
            else:
                self.ledger.record(costs)
        return out


class _Attention(TorchFunctionMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not ATTENTION or self.ledger.muted:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        tensors = list(args[:3]) + [
            kwargs[name] for name in ("query", "key", "value")[len(args) :] if name in kwargs
        ]
        self.ledger.record(attention_costs(*(tuple(t.shape) for t in tensors)))
        self.ledger.muted = True
        try:
            return func(*args, **kwargs)
        finally:
            self.ledger.muted = False


@contextmanager
def _module_paths(root: nn.Module, ledger: _Ledger) -> Iterator[None]:
    """Keep the path of the module that is running at the end of ``ledger.path``."""
    names = {id(module): name for name, module in root.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        ledger.path.append(names.get(id(module), ledger.path[-1]))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        ledger.path.pop()

    before = register_module_forward_pre_hook(enter)
    after = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def run_and_count(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Count]:
    """Run ``model(*args, **kwargs)`` once without gradients and return its output and its work.

    The model must be on the inputs' device; on ``meta`` nothing is computed or stored. torch's fused
    transformer path, which hides whole layers from counters, is switched off meanwhile.
    """
    ledger = _Ledger()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            _module_paths(model, ledger),
            _Attention(ledger),
            _Dispatches(ledger),
        ):
            output = model(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return output, ledger.count()

"""Count the work of one forward pass, module by module, on meta or real tensors.

The counter watches torch's dispatcher, so it sees what runs, however the model is written. Attention is
taken one level higher (``scaled_dot_product_attention``), because below that each device and torch version
runs other operators. Nothing it has no formula for is dropped: such operators are listed with their shapes.
"""

import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmeter.harness.counting.meta_ops import run_op
from segmeter.harness.counting.op_costs import Cost, attention_costs

ATTENTION = torch.nn.functional.scaled_dot_product_attention
MULTI_HEAD = torch.nn.functional.multi_head_attention_forward


@dataclass(frozen=True)
class Work:
    """All calls of one operator inside one module (``module`` is its dotted path, "" the root).

    ``output_bytes`` are the bytes of its outputs, for operators that have multiply-accumulates.
    """

    module: str
    operator: str
    calls: int
    macs: int
    flops: int
    output_bytes: int = 0


@dataclass(frozen=True)
class UnknownOp:
    """An operator without a formula: how often it ran where, and the shapes of its first call."""

    module: str
    operator: str
    calls: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ModuleRun:
    """A module that ran: how often, and the shape of the first tensor it returned (None: no tensor)."""

    module: str
    calls: int
    output: tuple[int, ...] | None


class DataDependentError(ValueError):
    """The model reads values that meta tensors do not hold, so it can only be counted on real inputs."""


@dataclass(frozen=True)
class Count:
    """The work of one forward pass; figures are integers, as :mod:`harness.counting.op_costs` gives them."""

    work: tuple[Work, ...] = ()
    unknown: tuple[UnknownOp, ...] = ()
    runs: tuple[ModuleRun, ...] = ()

    @property
    def macs(self) -> int:
        """All multiply-accumulates, norms and upsampling at fvcore's weights."""
        return sum(w.macs for w in self.work)

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return sum(w.flops for w in self.work)

    @property
    def activation_bytes(self) -> int:
        """Bytes that operators with multiply-accumulates write: what a backward pass would have to keep."""
        return sum(w.output_bytes for w in self.work)

    def under(self, prefix: str) -> "Count":
        """The same work with ``prefix`` put before every module path."""

        def joined(path: str) -> str:
            return f"{prefix}.{path}" if path else prefix

        return Count(
            tuple(replace(w, module=joined(w.module)) for w in self.work),
            tuple(replace(u, module=joined(u.module)) for u in self.unknown),
            tuple(replace(r, module=joined(r.module)) for r in self.runs),
        )

    def __add__(self, other: "Count") -> "Count":
        return Count(self.work + other.work, self.unknown + other.unknown, self.runs + other.runs)


@dataclass
class _Ledger:
    """What the modes write into while the model runs."""

    path: list[str] = field(default_factory=lambda: [""])
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    macs: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    flops: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    unknown_calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown_shapes: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    output_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    outputs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    muted: bool = False

    def record(self, costs: list[Cost], out: Any) -> None:
        written = _bytes(out) if any(cost.macs for cost in costs) else 0
        for cost in costs:
            key = (self.path[-1], cost.operator)
            self.calls[key] += 1
            self.macs[key] += cost.macs
            self.flops[key] += cost.flops
            if cost.macs and written:
                self.output_bytes[key] += written
                written = 0  # one output, whatever the number of kinds of work that made it

    def record_unknown(self, name: str, args: Any) -> None:
        key = (self.path[-1], name)
        self.unknown_calls[key] += 1
        flat = [each for a in args for each in (a if isinstance(a, list | tuple) else [a])]
        shapes = tuple(tuple(a.shape) for a in flat if isinstance(a, Tensor))
        self.unknown_shapes.setdefault(key, shapes)

    def count(self) -> Count:
        work = tuple(
            Work(module, operator, calls, self.macs[key], self.flops[key], self.output_bytes[key])
            for key, calls in self.calls.items()
            for module, operator in [key]
        )
        unknown = tuple(
            UnknownOp(module, name, calls, self.unknown_shapes[module, name])
            for (module, name), calls in self.unknown_calls.items()
        )
        runs = tuple(ModuleRun(module, calls, self.outputs[module]) for module, calls in self.runs.items())
        return Count(work, unknown, runs)


def _bytes(out: Any) -> int:
    first = out[0] if isinstance(out, tuple | list) and out else out
    return first.numel() * first.element_size() if isinstance(first, Tensor) else 0


def _first_shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output:
        return _first_shape(output[0])
    return None


class _Dispatches(TorchDispatchMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            out, costs = run_op(func, args, kwargs or {})
        except (RuntimeError, NotImplementedError):
            if not (_reads_values(func) and any(isinstance(a, Tensor) and a.is_meta for a in args)):
                raise
            where = self.ledger.path[-1] or "the model itself"
            raise DataDependentError(
                f"{where} calls {func._schema.name}, whose result depends on the input's values: "
                "count on real inputs"
            ) from None
        if not self.ledger.muted:
            if costs is None:
                self.ledger.record_unknown(func._schema.name, args)
            else:
                self.ledger.record(costs, out)
        return out


@lru_cache(maxsize=4096)
def _reads_values(func: Any) -> bool:
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


class _Attention(TorchFunctionMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is MULTI_HEAD:
            # It runs outside this mode, but looks the attention up by its name.
            torch.nn.functional.scaled_dot_product_attention = self._attend
            try:
                return func(*args, **(kwargs or {}))
            finally:
                torch.nn.functional.scaled_dot_product_attention = ATTENTION
        if func is not ATTENTION or self.ledger.muted:
            return func(*args, **kwargs) if kwargs else func(*args)
        return self._attend(*args, **(kwargs or {}))

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        """Attention under its own name, whatever runs below it."""
        tensors = list(args[:3]) + [
            kwargs[name] for name in ("query", "key", "value")[len(args) :] if name in kwargs
        ]
        costs = attention_costs(*(tuple(t.shape) for t in tensors))
        self.ledger.muted = True
        try:
            out = ATTENTION(*args, **kwargs)
        finally:
            self.ledger.muted = False
        self.ledger.record(costs, out)
        return out


@contextmanager
def _module_paths(root: nn.Module, ledger: _Ledger) -> Iterator[None]:
    """Keep the path of the module that is running at the end of ``ledger.path``."""
    names = {
        id(module): name.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
        for name, module in root.named_modules()
        if "_orig_mod" not in module._modules
    }

    def enter(module: nn.Module, inputs: Any) -> None:
        ledger.path.append(names.get(id(module), ledger.path[-1]))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        ledger.path.pop()
        path = names.get(id(module))
        if path is not None:
            ledger.runs[path] += 1
            ledger.outputs.setdefault(path, _first_shape(output))

    before = register_module_forward_pre_hook(enter)
    after = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def _eager() -> Iterator[None]:
    with ExitStack() as stack:
        # Nothing can be compiled unless this module has been loaded; loading it takes a second.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(warnings.catch_warnings())
            # The wrapper around a compiled module fires hooks too; it has no path of its own here.
            warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global")
        yield


def run_and_count(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Count]:
    """Run ``model(*args, **kwargs)`` once and return its output and its work; see :func:`count_call`."""
    on_meta = any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs)))
    return count_call(model, lambda: model(*args, **kwargs), on_meta)


def count_call(model: nn.Module, call: Callable[[], Any], on_meta: bool = True) -> tuple[Any, Count]:
    """Make a call that runs a model, once and without gradients; return what it gives and the model's work.

    The model must be on the inputs' device; on ``meta`` nothing is computed or stored. torch's fused
    transformer path, which hides whole layers from counters, is switched off meanwhile, and modules under
    ``torch.compile`` run as they are written.

    Args:
        model: work inside its modules has their paths, work around them the root's.
        call: runs it.
        on_meta: whether the inputs are on meta, so that an error may be for want of values.

    Raises:
        DataDependentError: on meta, the model asks for values (``nonzero``, ``item``, boolean indexing,
            ``tolist``), or mixes in a tensor that is not on meta.
    """
    ledger = _Ledger()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            _eager(),
            _module_paths(model, ledger),
            _Attention(ledger),
            _Dispatches(ledger),
        ):
            output = call()
    except (NotImplementedError, TypeError, RuntimeError) as error:
        # What leaves the dispatcher behind, as `tolist` and `numpy` do, or meets a tensor of another device.
        said = " ".join(str(error).split())
        if on_meta and re.search(r"\bmeta\b|__format__", said):
            raise DataDependentError(
                f"the model does not run on tensors without values ({said[:120]}): count on real inputs"
            ) from error
        raise
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return output, ledger.count()

"""Count the work of one forward pass, module by module, on meta or real tensors.

The counter watches torch's dispatcher, so it sees what runs, however the model is written. Attention is
taken one level higher (``scaled_dot_product_attention``), because below that each device and torch version
runs other operators. Nothing it has no formula for is dropped: such operators are listed with their shapes.

What torch keeps per thread (its modes) is left per thread; what it keeps once for the process (attention's
name, how compiled code runs) is changed by one count at a time, and means nothing to other threads.
"""

import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from segmeter.harness.counting.autocast import autocast_inputs, autocast_products, autocast_state, runs_lower
from segmeter.harness.counting.flow import Flow
from segmeter.harness.counting.higher_order import UnknownValuesError, run_higher_order
from segmeter.harness.counting.ledger import Branch, Count, Ledger, ModuleRun, UnknownOp, Work
from segmeter.harness.counting.meta_ops import run_op
from segmeter.harness.counting.moves import moves_of
from segmeter.harness.counting.op_costs import Cost, attention_costs
from segmeter.harness.counting.similarities import SIMILARITIES, is_reducer_call, norm_costs
from segmeter.harness.counting.threads import threads_watched
from segmeter.harness.counting.untouched import Keeper
from segmeter.harness.models import DispatchMode, named_parts, small_values

__all__ = [
    "Branch",
    "Count",
    "DataDependentError",
    "ModuleRun",
    "UnknownOp",
    "Work",
    "count_call",
    "run_and_count",
]

ATTENTION = torch.nn.functional.scaled_dot_product_attention
# What torch says of tensors without values.
MISSED = r"\bmeta\b|__format__|unallocated storage"
MULTI_HEAD = torch.nn.functional.multi_head_attention_forward
ATTENTION_OPERATORS = (
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,
)

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

# Held while something is changed that torch keeps once for the process.
one_at_a_time = threading.RLock()


class DataDependentError(ValueError):
    """The model reads values that meta tensors do not hold, so it can only be counted on real inputs."""


class _Dispatches(DispatchMode):
    # Operators that call functions, as torch.cond does, come here too.
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch is to hide this mode from its compiler, which it would load for that: a second."""
        return False

    def __init__(self, ledger: Ledger, keeper: Keeper | None, on_meta: bool) -> None:
        super().__init__()
        self.ledger = ledger
        self.keeper = keeper
        self.on_meta = on_meta

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            return run_higher_order(func, args, kwargs or {}, self.ledger, lambda: self)
        if types and any(map(_takes_apart, types)):
            # Tensors of a class of their own, such as rows of several lengths: what they are made of is
            # dispatched next, and is counted then.
            return NotImplemented
        kwargs = kwargs or {}
        here = self.ledger.here
        if _is_nested(args) or (kwargs and _is_nested(kwargs.values())):
            # What rows of several lengths cost, their one tensor does not tell: it has no shape.
            out = func(*args, **kwargs)
            if not (here.muted or func.is_view):
                self.ledger.record_unknown(func._schema.name, args)
            return out
        if not here.muted:
            if func in ATTENTION_OPERATORS:
                return _attend(self.ledger, func, args, kwargs)
            if _is_composite(func):
                # Under inference mode, operators arrive here before torch takes them apart. Its C++ parts are
                # meant: the Python ones, which compilers use, go further down.
                with self:
                    return func._op_dk(COMPOSITE, *args, **kwargs)
        if self.keeper is not None:
            self.keeper.before(func, args, kwargs)
        if self.on_meta and here.autocast is not None:
            args = autocast_inputs(here.autocast, func, args)
        try:
            out, costs = run_op(func, args, kwargs)
        except (RuntimeError, NotImplementedError) as error:
            # An index of the wrong type is refused wherever it is.
            if not (_reads_values(func) and self.on_meta) or "indices must be" in str(error):
                raise
            where = here.path[-1] or "the model itself"
            raise DataDependentError(
                f"{where} calls {func._schema.name}{_line_of_model()}, whose result depends on the input's "
                "values: count on real inputs"
            ) from None
        if not here.muted:
            if here.reducers:
                costs = norm_costs(func._schema.name, args) or costs
            if costs is None:
                self.ledger.record_unknown(func._schema.name, args)
            elif costs:
                self.ledger.record(costs, out)
            moved = moves_of(func._schema.name, args, out)
            if moved is not None:
                self.ledger.record_move(*moved)
        self.ledger.record_step(func, (args, kwargs), out, costs)
        return out


def _line_of_model(error: BaseException | None = None) -> str:
    """The line of the model's own code that runs or failed, e.g. " in modeling_x.py:12"; "" for none."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    if error is None:
        frames = [(f.filename, f.lineno) for f in traceback.extract_stack()]
    else:
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    foreign = [(file, line) for file, line in frames if not file.startswith((*ours, "<"))]
    return f" in {Path(foreign[-1][0]).name}:{foreign[-1][1]}" if foreign else ""


@lru_cache(maxsize=4096)
def _reads_values(func: Any) -> bool:
    # torchvision tags nothing, and its nms gives as many boxes as their places leave.
    tagged = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    return tagged or func._schema.name == "torchvision::nms"


@lru_cache(maxsize=256)
def _takes_apart(kind: type) -> bool:
    """Whether a class of tensors says itself what is done with its parts."""
    return getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__


def _is_nested(args: Any) -> bool:
    return any(isinstance(each, Tensor) and each.is_nested for each in args)


@lru_cache(maxsize=4096)
def _is_composite(func: Any) -> bool:
    """Whether the operator is but a name for a sequence of others."""
    return func.namespace != "prim" and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE)


def _attend(ledger: Ledger, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Run attention and book it under its own name, whatever runs below it."""
    if ledger.here.autocast is not None:
        args, kwargs = autocast_products(ledger.here.autocast, (args, kwargs))
    tensors = list(args[:3]) + [
        kwargs[name] for name in ("query", "key", "value")[len(args) :] if name in kwargs
    ]
    costs = attention_costs(*(tuple(t.shape) for t in tensors))
    return _book_whole(ledger, func, args, kwargs, costs)


def _book_whole(
    ledger: Ledger, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], costs: list[Cost]
) -> Any:
    with ledger.silent():
        out = func(*args, **kwargs)
    ledger.record(costs, out)
    ledger.record_step(func, (args, kwargs), out, costs)
    return out


class _Attention(TorchFunctionMode):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ledger.here.autocast = autocast_state()
        if func is MULTI_HEAD:
            # It runs outside this mode, but looks the attention up by its name.
            torch.nn.functional.scaled_dot_product_attention = self._attend_by_name
            try:
                return func(*args, **(kwargs or {}))
            finally:
                torch.nn.functional.scaled_dot_product_attention = ATTENTION
        if self.ledger.here.autocast is not None and runs_lower(func):
            args, kwargs = autocast_products(self.ledger.here.autocast, (args, kwargs or {}))
        if self.ledger.here.reducers and not self.ledger.here.muted and func in SIMILARITIES:
            costs = SIMILARITIES[func](*args, **(kwargs or {}))
            return _book_whole(self.ledger, func, args, kwargs or {}, costs)
        is_attention = func is ATTENTION or func in ATTENTION_OPERATORS
        if self.ledger.here.muted or not is_attention or _is_nested(args):
            return func(*args, **kwargs) if kwargs else func(*args)
        return _attend(self.ledger, func, args, kwargs or {})

    def _attend_by_name(self, *args: Any, **kwargs: Any) -> Any:
        """What the name means meanwhile; other threads may look it up too."""
        if not self.ledger.here.watched:
            return ATTENTION(*args, **kwargs)
        return _attend(self.ledger, ATTENTION, args, kwargs)


@contextmanager
def _module_paths(root: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Keep the path of the module that is running at the end of ``ledger.here.path``."""
    parts = list(named_parts(root))
    # Modules under torch.jit take no hooks of their own.
    plain = [(path, module) for path, module in parts if not isinstance(module, torch.jit.ScriptModule)]
    scripted = [(path, module) for path, module in parts if isinstance(module, torch.jit.ScriptModule)]
    hooks: list[RemovableHandle] = []
    try:
        enter, leave = _borders(plain, ledger)
        for _, module in plain:
            hooks.append(module.register_forward_pre_hook(enter, prepend=True))
            hooks.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        if scripted:
            enter, leave = _borders(scripted, ledger)
            hooks.append(register_module_forward_pre_hook(enter))
            hooks.append(register_module_forward_hook(leave, with_kwargs=True, always_call=True))
        yield
    finally:
        for hook in reversed(hooks):
            hook.remove()


def _borders(
    parts: Sequence[tuple[str, nn.Module]], ledger: Ledger
) -> tuple[Callable[[nn.Module, Any], None], Callable[[nn.Module, Any, Any, Any], None]]:
    """Hooks for before and after a module, which do nothing in other threads and for other modules."""
    paths = {id(module): path for path, module in parts}

    def is_ours(module: nn.Module) -> bool:
        return ledger.here.watched and id(module) in paths

    def enter(module: nn.Module, inputs: Any) -> None:
        if is_ours(module):
            ledger.here.path.append(paths[id(module)])
            ledger.here.reducers += is_reducer_call(inputs)

    def leave(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        if is_ours(module):
            ledger.here.path.pop()
            ledger.here.reducers -= is_reducer_call(inputs)
            with torch._C.DisableTorchFunction():  # modes need not hear of shapes looked up
                ledger.record_run(paths[id(module)], (inputs, named), output)

    return enter, leave


@contextmanager
def _eager() -> Iterator[None]:
    """Let compiled code run as it is written, and flex attention take meta tensors."""
    with ExitStack() as stack:
        # Nothing can be compiled unless this module has been loaded; loading it takes a second.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        flex = sys.modules.get("torch.nn.attention.flex_attention")
        check = getattr(flex, "_validate_device", None)
        if flex is not None and check is not None:

            def check_device(query: Tensor, *others: Tensor) -> None:
                if not query.is_meta:
                    check(query, *others)

            flex._validate_device = check_device  # type: ignore[attr-defined]
            stack.callback(setattr, flex, "_validate_device", check)
        yield


def run_and_count(
    model: nn.Module, *args: Any, keeper: Keeper | None = None, **kwargs: Any
) -> tuple[Any, Count]:
    """Run ``model(*args, **kwargs)`` once and return its output and its work; see :func:`count_call`."""
    on_meta = any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs)))
    return count_call(model, lambda: model(*args, **kwargs), on_meta, keeper)


def count_call(
    model: nn.Module,
    call: Callable[[], Any],
    on_meta: bool = True,
    keeper: Keeper | None = None,
    flow: Flow | None = None,
) -> tuple[Any, Count]:
    """Make a call that runs a model, once and without gradients; return what it gives and the model's work.

    The model must be on the inputs' device; on ``meta`` nothing is computed or stored. torch's fused
    transformer path, which hides whole layers from counters, is switched off meanwhile, and modules under
    ``torch.compile`` run as they are written. Counts in several threads wait for each other.

    Args:
        model: work inside its modules has their paths, work around them the root's.
        call: runs it.
        on_meta: whether the inputs are on meta, so that an error may be for want of values.
        keeper: sees each operator before it runs, to copy memory that is written.
        flow: is told of each operator after it has run, and what it was made from.

    Raises:
        DataDependentError: on meta, the model asks for values (``nonzero``, ``item``, boolean indexing,
            ``tolist``), or mixes in a tensor that is not on meta.
    """
    with one_at_a_time:
        try:
            return _count_telling(model, call, keeper, on_meta, nullcontext, flow)
        except DataDependentError as first:
            if not on_meta:
                raise
            # Constants that a model reads may stay real; layers that want one device for all fail then.
            try:
                return _count_telling(model, call, keeper, on_meta, small_values, flow)
            except DataDependentError:
                raise
            except Exception:
                raise first from None


def _count_telling(
    model: nn.Module,
    call: Callable[[], Any],
    keeper: Keeper | None,
    on_meta: bool,
    values: Callable[[], AbstractContextManager[Any]],
    flow: Flow | None,
) -> tuple[Any, Count]:
    """Count, and tell errors for want of values from others."""
    try:
        return _count_as_written(model, call, keeper, on_meta, values, flow)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        # It left the dispatcher behind, as `tolist` and `numpy` do, or met a tensor of another device.
        said = " ".join(str(error).split())
        wants_values = isinstance(error, UnknownValuesError) or re.search(MISSED, said)
        if on_meta and wants_values and not isinstance(error, DataDependentError):
            raise DataDependentError(
                f"the model does not run on tensors without values ({said[:120]}"
                f"{_line_of_model(error)}): count on real inputs"
            ) from error
        raise


def _count_as_written(
    model: nn.Module,
    call: Callable[[], Any],
    keeper: Keeper | None,
    on_meta: bool,
    values: Callable[[], AbstractContextManager[Any]],
    flow: Flow | None,
) -> tuple[Any, Count]:
    could_compile = "torch._dynamo" in sys.modules
    try:
        return _count_once(model, call, keeper, on_meta, values, flow)
    except Exception:
        # The call has loaded the compiler, so that nothing could be said to it before.
        if could_compile or "torch._dynamo" not in sys.modules:
            raise
        return _count_once(model, call, keeper, on_meta, values, flow)


def _count_once(
    model: nn.Module,
    call: Callable[[], Any],
    keeper: Keeper | None,
    on_meta: bool,
    values: Callable[[], AbstractContextManager[Any]],
    flow: Flow | None,
) -> tuple[Any, Count]:
    ledger = Ledger(flow)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:

        @contextmanager
        def watching() -> Iterator[None]:
            with torch.no_grad(), values(), _Attention(ledger), _Dispatches(ledger, keeper, on_meta):
                yield

        with _eager(), _module_paths(model, ledger), threads_watched(ledger, watching), watching():
            output = call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return output, ledger.count()

"""Leave a model, its inputs and the random numbers as they were, whatever a forward pass does to them."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Their schemas do not say that they write the running statistics.
_WRITES_STATISTICS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
_TABLES = ("_parameters", "_buffers", "_modules")


class Keeper:
    """Keeps a copy of protected memory from before it is first written.

    Buffers are copied at once; weights and inputs, which hardly any model writes, only when one does.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[Tensor]) -> None:
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._protected: dict[int, Any] = {}
        for tensor in (*module.parameters(), *module.buffers(), *inputs):
            memory = _memory(tensor)
            if memory is not None:
                self._protected[memory._cdata] = memory
        for buffer in module.buffers():
            self._keep(buffer)

    def before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Look at an operator before it runs."""
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(value)
            for name, value in kwargs.items():
                self._keep(value if name == "out" else None)
        elif func._schema.name in _WRITES_STATISTICS:
            self._keep(args[3:5])

    def restore(self) -> None:
        """Write everything back."""
        for memory, before in self._kept.values():
            memory.copy_(before)

    def _keep(self, value: Any) -> None:
        if isinstance(value, tuple | list):
            for each in value:
                self._keep(each)
        memory = _memory(value) if isinstance(value, Tensor) else None
        if memory is not None and memory._cdata in self._protected and memory._cdata not in self._kept:
            self._kept[memory._cdata] = (memory, memory.clone())


def _memory(tensor: Tensor) -> Any:
    """The memory of a dense tensor with values; None for others."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided:
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


@contextmanager
def untouched(module: nn.Module, inputs: Iterable[Tensor] = ()) -> Iterator[Keeper]:
    """Put attributes, buffers, weights, inputs and random numbers back afterwards.

    Weights and inputs are put back if :meth:`Keeper.before` sees the operators that write them.
    """
    states = [
        (each, dict(vars(each)), {name: dict(vars(each)[name]) for name in _TABLES if name in vars(each)})
        for each in module.modules()
        if not isinstance(each, torch.jit.ScriptModule)
    ]
    keeper = Keeper(module, inputs)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(_accelerators(module)))
        stack.callback(random.setstate, random.getstate())
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        try:
            yield keeper
        finally:
            for each, attributes, tables in states:
                _put_back(vars(each), attributes)
                for name, content in tables.items():
                    _put_back(vars(each)[name], content)
            keeper.restore()


def _put_back(table: dict[str, Any], before: dict[str, Any]) -> None:
    """Undo what has changed, and that alone: the module may be running in other threads."""
    for name in table.keys() - before.keys():
        del table[name]
    for name, value in before.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _accelerators(module: nn.Module) -> list[int]:
    """Numbers of the CUDA devices that the weights are on."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return sorted({device.index or 0 for device in devices if device.type == "cuda"})

"""Count any module, called as its user says; it, its inputs and the random numbers stay as they were."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from segmeter.harness.counting.counter import DataDependentError, one_at_a_time, run_and_count
from segmeter.harness.counting.ledger import Count
from segmeter.harness.counting.training import Training, count_training
from segmeter.harness.counting.untouched import untouched
from segmeter.harness.inputs import Call, Shape, input_dtype, read_calls, run_first
from segmeter.harness.models import full_copy, meta_copy


def count_module(model: Any, inputs: Any, kwargs: Mapping[str, Any] | None = None) -> tuple[nn.Module, Count]:
    """Count one forward pass in eval mode; returns what was counted too, which has the weights' shapes.

    Args:
        model: a module, or a program of ``torch.export``, whose example inputs serve if ``inputs`` is None.
        inputs, kwargs: as :func:`harness.inputs.read_calls` takes them. By shape, a copy on meta is counted;
            a program that cannot be copied runs on zeros. Shapes of token ids are told by the model's
            refusal of other numbers.

    Raises:
        DataDependentError: counted on meta, but the work depends on the input's values.
        ValueError: inputs that cannot be read.
    """
    module, inputs, kwargs = _module(model, inputs, kwargs)
    calls = read_calls(module, inputs, kwargs)
    # A count adds hooks to the module and takes them off again, which another one must not see.
    with one_at_a_time:
        return run_first(calls, lambda call, ids: _count(module, call, ids), DataDependentError)


def runnable(
    model: Any, inputs: Any, kwargs: Mapping[str, Any] | None = None
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A module with arguments on its own device that it runs on: tensors as given, seeded noise for shapes.

    Token ids are 0. A module whose weights' shapes come from its inputs is a copy that has seen them.

    Raises:
        ValueError: inputs that cannot be read.
    """
    module, inputs, kwargs = _module(model, inputs, kwargs)
    device = _device(module)

    def attempt(call: Call, ids: frozenset[int]) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        noise = torch.Generator().manual_seed(0)

        def make(shape: Shape) -> Tensor:
            if shape.number in ids:
                return torch.zeros(shape.sides, dtype=torch.long, device=device)
            return torch.randn(shape.sides, generator=noise).to(device, input_dtype(module))

        args, named = call.made(make)
        with in_eval(module), untouched(module, call.tensors), torch.no_grad():
            if not _is_lazy(module):
                module(*args, **named)
                return module, args, named
            return _with_weights(full_copy(module), args, named), args, named

    return run_first(read_calls(module, inputs, kwargs), attempt, DataDependentError)


def _module(
    model: Any, inputs: Any, kwargs: Mapping[str, Any] | None
) -> tuple[nn.Module, Any, Mapping[str, Any] | None]:
    exported = sys.modules.get("torch.export")
    if exported is None or not isinstance(model, exported.ExportedProgram):
        module: nn.Module = getattr(model, "_orig_mod", model)
        return module, inputs, kwargs
    if inputs is None and model.example_inputs is not None:
        inputs, kwargs = model.example_inputs
    # The modules that the program was made of, so that work has their paths.
    return exported.unflatten(model), inputs, kwargs


def _count(module: nn.Module, call: Call, ids: frozenset[int]) -> tuple[nn.Module, Count]:
    if not call.shapes:
        args, kwargs = call.args, call.kwargs
        if _is_lazy(module):
            module = full_copy(module)
    else:
        dtype, device = input_dtype(module), "meta"
        try:
            module = meta_copy(module)
        except RuntimeError:
            # Exported programs hold tensors that cannot be copied.
            device = str(_device(module))

        def make(shape: Shape) -> Tensor:
            return torch.zeros(shape.sides, dtype=torch.long if shape.number in ids else dtype, device=device)

        args, kwargs = call.made(make)
    with in_eval(module), untouched(module, call.tensors) as keeper:
        if _is_lazy(module):
            with torch.no_grad():
                _with_weights(module, args, kwargs)
        return module, run_and_count(module, *args, keeper=keeper, **kwargs)[1]


def _is_lazy(module: nn.Module) -> bool:
    """Whether some weights get their shapes from the first input."""
    return any(torch.nn.parameter.is_lazy(each) for each in (*module.parameters(), *module.buffers()))


def _with_weights(module: nn.Module, args: Any, kwargs: Any) -> nn.Module:
    module(*args, **kwargs)
    return module


def _device(module: nn.Module) -> torch.device:
    weight = next((each for each in (*module.parameters(), *module.buffers())), None)
    return weight.device if weight is not None else torch.device("cpu")


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode, and each part of it back to its own mode afterwards."""
    # A frozen script has no modes at all.
    training = [each for each in module.modules() if getattr(each, "training", False)]
    try:
        module.eval()
    except NotImplementedError:
        # Exported programs have one mode only, and refuse.
        for each in training:
            each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


def count_step(model: Any, inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Training:
    """Count one step of training of a copy on meta; arguments as :func:`count_module`.

    Raises:
        ValueError: inputs that cannot be read, or an output that depends on no weight.
    """
    module, args, named = runnable(model, inputs, kwargs)

    def shapes(x: Any) -> Any:
        return x.detach().to("meta") if isinstance(x, Tensor) and x.is_floating_point() else x

    args, named = tree_map(shapes, args), tree_map(shapes, named)
    return count_training(meta_copy(module), lambda copied: copied(*args, **named))

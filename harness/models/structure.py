"""What a model is made of, module by module: class, weights, who shares a weight with whom, source line."""

import copy
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from segmeter.harness.models.constants import MOST


@dataclass(frozen=True)
class ModuleFact:
    """One module without its children.

    Attributes:
        path: dotted, "" for the root.
        kind: class name.
        weights: own parameters with their shapes; a shared one names its first owner.
        params: number of own parameter elements; a shared parameter counts at its first owner only.
    """

    path: str
    kind: str
    weights: str
    params: int


# torch.compile puts a module into a wrapper, as its child of this name.
_COMPILED = "_orig_mod"


def named_parts(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its dotted path, parents first, as if nothing were compiled.

    torch.compile's wrappers are passed over, and are in no path: work, structure and components of a model
    must speak of the same places, compiled or not.
    """
    for path, module in root.named_modules():
        if type(module).__name__ == "OptimizedModule" and _COMPILED in module._modules:
            continue
        yield ".".join(name for name in path.split(".") if name != _COMPILED), module


def structure_of(root: nn.Module) -> tuple[ModuleFact, ...]:
    """Facts of every module, parents first; a module that stands in two places has its first path only.

    >>> structure_of(nn.Linear(3, 2))
    (ModuleFact(path='', kind='Linear', weights='weight 2x3, bias 2', params=8),)
    """
    owners: dict[int, str] = {}
    facts = []
    for path, module in named_parts(root):
        texts, params = [], 0
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full = f"{path}.{name}" if path else name
            owner = owners.setdefault(id(parameter), full)
            shape = "x".join(str(side) for side in parameter.shape) or "scalar"
            texts.append(f"{name} {shape}" + (f" (= {owner})" if owner != full else ""))
            params += parameter.numel() if owner == full else 0
        facts.append(ModuleFact(path, type(module).__name__, ", ".join(texts), params))
    return tuple(facts)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy on meta that copies no weights and keeps shared ones shared, which ``.to("meta")`` does not.

    Small buffers keep their values: a forward pass may look at them.
    """
    memo = _unborn(model, "meta")
    for parameter in model.parameters():
        if not is_lazy(parameter):
            memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        if is_lazy(buffer):
            continue
        if buffer.numel() > MOST:
            memo[id(buffer)] = buffer.to("meta")
        elif buffer.device.type != "cpu" and not buffer.is_meta:
            memo[id(buffer)] = buffer.to("cpu")
    return copy.deepcopy(model, memo)


def copy_without_values(model: nn.Module, valueless: Iterable[nn.Module]) -> nn.Module:
    """A copy that shares the model's weights, but for those of the named modules, which are on meta."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for module in valueless:
        for parameter in module.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        for buffer in module.buffers():
            memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)


def full_copy(model: nn.Module) -> nn.Module:
    """A copy with weights, those that wait for a first input among them."""
    return copy.deepcopy(model, _unborn(model, None))


def _unborn(model: nn.Module, device: str | None) -> dict[int, object]:
    """Copies of the weights that have no shape yet, which torch does not copy itself."""
    copies: dict[int, object] = {}
    # torch's types take them for the tensors that they become.
    new_parameter: Any = UninitializedParameter
    new_buffer: Any = UninitializedBuffer
    for parameter in filter(is_lazy, model.parameters()):
        where = device or parameter.device
        copies[id(parameter)] = new_parameter(parameter.requires_grad, where, parameter.dtype)
    for buffer in filter(is_lazy, model.buffers()):
        copies[id(buffer)] = new_buffer(False, device or buffer.device, buffer.dtype)
    return copies


def source_line(root: nn.Module, path: str, folder: Path) -> tuple[str, int] | None:
    """File (relative to ``folder``) and line of the class of the module at ``path``.

    Where that class is not defined inside the folder, as for ``nn.Linear``, its nearest parent's is given;
    None if no parent's is either.
    """
    names = path.split(".") if path else []
    for length in range(len(names), -1, -1):
        try:
            kind = type(root.get_submodule(".".join(names[:length])))
            file = Path(inspect.getsourcefile(kind) or "").resolve()
            if file.is_relative_to(folder.resolve()) and "site-packages" not in file.parts:
                return file.relative_to(folder.resolve()).as_posix(), inspect.getsourcelines(kind)[1]
        except (AttributeError, TypeError, OSError):
            continue
    return None

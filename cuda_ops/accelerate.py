"""Make another library's deformable attention run on the compiled op: in place, named, and undone at will."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from segmeter.cuda_ops import around, families

FORWARD = "forward"


@dataclass(frozen=True)
class Layer:
    """One deformable-attention layer of a model.

    Attributes:
        path: where it stands in the model.
        kind: its class, with the module that it comes from.
        reason: why it keeps its own path; "" where it runs on the op.
    """

    path: str
    kind: str
    reason: str = ""


class Acceleration:
    """What :func:`accelerate_model` did; ``with accelerate(model):`` undoes it at the end.

    Attributes:
        replaced: layers that run on the op.
        kept: layers that keep a path of their own, each with the reason.
        around: how many modules around them go by rows in inference on a CPU.
    """

    def __init__(self) -> None:
        self.replaced: list[Layer] = []
        self.kept: list[Layer] = []
        self.around = 0
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> None:
        """Give every layer its own path back; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} layers run on segmeter's op, {len(self.kept)} keep their own path"]
        lines += [f"  {layer.path}: {layer.kind}" for layer in self.replaced]
        lines += [f"  {layer.path}: {layer.kind} keeps its own: {layer.reason}" for layer in self.kept]
        return "\n".join(lines)

    def _replace(self, module: nn.Module, kind: type[nn.Module]) -> None:
        before = type(module)
        module.__class__ = kind
        self._undo.append(lambda: setattr(module, "__class__", before))


@cache
def _accelerated(plain: Any, attribute: str, function: Callable[..., Any]) -> type[nn.Module]:
    """A layer's class with another ``forward``, or another function for one that it holds, by the same name.

    A method of the layer itself would stay with it when its model is copied to other GPUs, and a file of the
    pickled layer could not be read. This class is pickled as the plain one, with the functions that the plain
    layer holds: the file needs no segmeter.
    """

    def reduce(self: nn.Module, protocol: Any) -> Any:
        return object.__new__, (plain,), self.__getstate__()

    def deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    # A property goes before what the layer itself holds under that name, which stays as it is.
    instead = function if attribute == FORWARD else property(lambda self: function)
    body = {attribute: instead, "__reduce_ex__": reduce, "__deepcopy__": deepcopy, families.MARK: True}
    same = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (plain,), {**body, **same})


def accelerate_model(model: nn.Module) -> Acceleration:
    """Let every deformable-attention layer of a model that is known here run on the compiled op.

    Parameters, state dict, hooks and outputs stay as they are (to float rounding). Known: transformers'
    Mask2Former, OneFormer, Deformable DETR, Grounding DINO, OmDet-Turbo, RT-DETR, RT-DETR v2, D-FINE,
    DEIMv2, LW-DETR, RF-DETR and their kin; ``MSDeformAttn`` of Deformable DETR, Mask2Former, DINO and
    MaskDINO; mmcv's ``MultiScaleDeformableAttention``.

    Returns:
        What was replaced and what was not; use it as a context, or call its ``undo``.

    Raises:
        TypeError: not a module.
        ValueError: no such layer at all, or none that can be replaced; nothing is changed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    done = Acceleration()
    for path, module in model.named_modules():
        found = families.recognise(module)
        if found is None:
            continue
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        reason = found.refuses(module)
        if reason:
            done.kept.append(Layer(path, kind, reason))
            continue
        plain: Any = type(module)
        done._replace(module, _accelerated(plain, found.attribute, found.function))
        done.replaced.append(Layer(path, kind))
    if done.replaced:
        for module in list(model.modules()):
            for each, forward in around.forwards(module):
                if FORWARD not in each.__dict__ and not hasattr(type(each), families.MARK):
                    surrounding: Any = type(each)
                    done._replace(each, _accelerated(surrounding, FORWARD, forward))
                    done.around += 1
    else:
        name = type(model).__name__
        if done.kept:
            raise ValueError(
                f"no layer of {name} can run on the op: {done.kept[0].path}: {done.kept[0].reason}"
            )
        raise ValueError(f"{name} has no deformable attention that is known; known: {families.KNOWN}")
    return done

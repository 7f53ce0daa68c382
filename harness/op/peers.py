"""Others' deformable attention, timed beside segmeter's: found, called their way, checked, or left out.

A peer is used if it is installed, or lies in the git-ignored folder ``.peers`` of the working directory, as
``pip install --target .peers PACKAGE`` puts it there. Nothing of a peer is part of segmeter.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmeter.harness.op.problems import Problem

FOLDER = Path(".peers")
Op = Callable[..., Tensor]
Arguments = tuple[Tensor, ...]
# How far a peer may be from the float64 reference, as a norm over a norm. In half precision some work out
# places on the map in half precision too.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.1}


class PeerUnavailableError(RuntimeError):
    """A peer cannot be timed; the message says why, in one line."""


@dataclass(frozen=True)
class Peer:
    """One other implementation.

    Attributes:
        name: as in tables.
        module: what is imported.
        source: where it comes from.
        adapt: from the imported module and a problem, a differentiable op and its arguments, value first.
    """

    name: str
    module: str
    source: str
    adapt: Callable[[Any, Problem], tuple[Op, Arguments]]


def load(peer: Peer) -> Any:
    """The peer's module.

    Raises:
        PeerUnavailableError: it is not installed, or cannot be imported.
    """
    module, reason = import_peer(peer.module)
    if module is None:
        raise PeerUnavailableError(reason or f"not installed ({peer.source})")
    return module


def check(given: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """Check a peer's result against the float64 reference's.

    Raises:
        PeerUnavailableError: it differs by more than the dtype explains.
    """
    error = ((given.double().flatten() - expected.flatten()).norm() / expected.norm()).item()
    # Not the other way round: NaN is no agreement.
    if not error <= TOLERANCE[dtype]:
        raise PeerUnavailableError(f"{what} is off by {error:.2g} of its norm from the float64 reference")


def one_line(error: Exception) -> str:
    """What a foreign op raised, short enough for a table's note."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


@cache
def import_peer(module: str) -> tuple[Any, str]:
    """A peer's module, or None and why; no reason where it is simply not there."""
    if FOLDER.is_dir() and str(FOLDER.resolve()) not in sys.path:
        # Last, so that nothing there hides what segmeter itself uses.
        sys.path.append(str(FOLDER.resolve()))
    try:
        return import_module(module), ""
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        return None, "" if error.name in (top, module) else f"cannot be imported: {error}"
    except Exception as error:  # whatever a foreign module raises as it is loaded
        return None, f"cannot be imported: {one_line(error)}"


def _deformable_detr(extension: Any, problem: Problem) -> tuple[Op, Arguments]:
    # The last argument of both is how many items of the batch one launch takes.
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            ctx.save_for_backward(*tensors)
            output: Tensor = extension.ms_deform_attn_forward(*tensors, 1)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            value, places, weights = extension.ms_deform_attn_backward(*ctx.saved_tensors, grad, 1)
            return value, None, None, places, weights

    return Function.apply, problem.plain()


def _dcnv4(module: Any, problem: Problem) -> tuple[Op, Arguments]:
    # Locations and logits of a query and head lie in one row; the softmax is inside.
    places = torch.cat((problem.locations.flatten(3), problem.logits.flatten(3)), dim=-1)
    points = problem.logits.shape[-1]

    def op(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor) -> Tensor:
        output: Tensor = module.FlashDeformAttnFunction.apply(value, shapes, starts, places, 1, points)
        return output

    return op, (problem.value, problem.shapes, problem.starts, places)


def _deformops(module: Any, problem: Problem, backend: str) -> tuple[Op, Arguments]:
    value, shapes, starts, locations, weights = problem.plain()
    call = partial(module.msda, backend=module.Backend[backend])
    return call, (value, shapes, starts, locations, weights.flatten(3))


def _msda_triton(module: Any, problem: Problem) -> tuple[Op, Arguments]:
    value, shapes, _, locations, weights = problem.plain()

    def op(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        output: Tensor = module.triton_multiscale_deformable_attention(
            value, shapes, locations, weights, padding_mode="zeros", align_corners=False
        )
        return output

    return op, (value, shapes, locations, weights)


_DEFORMOPS = ("deformops.registry", "pip install deformops")
PEERS = (
    Peer(
        "Deformable-DETR",
        "MultiScaleDeformableAttention",
        "models/ops of github.com/fundamentalvision/Deformable-DETR",
        _deformable_detr,
    ),
    Peer("DCNv4", "DCNv4.functions", "DCNv4_op of github.com/OpenGVLab/DCNv4", _dcnv4),
    Peer("deformops, CUDA", *_DEFORMOPS, partial(_deformops, backend="CUDA")),
    Peer("deformops, Triton", *_DEFORMOPS, partial(_deformops, backend="TRITON")),
    Peer("deformops, eager", *_DEFORMOPS, partial(_deformops, backend="EAGER")),
    Peer("msda-triton", "msda_triton.frontend", "github.com/rziga/msda-triton", _msda_triton),
)

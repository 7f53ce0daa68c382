"""Let torch's graph tracer, and so fvcore, run on meta tensors.

Two things stand in its way. While it traces, a tensor's size is itself a traced tensor, on which the Python
kernels of meta tensors cannot decide anything. And it records a convolution inside the kernel of real
devices (as ``aten::_convolution``), which a meta tensor never reaches.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from segmeter.harness.models import SmallValues

aten = torch.ops.aten


@contextmanager
def traceable_on_meta(values: SmallValues) -> Iterator[None]:
    """Trace inside this context, which stands within that of the small values; gradients must be off."""
    with (
        ThreadPoolExecutor(max_workers=1) as thread,
        _RecordedConvolutions(),
        _UntracedKernels(thread, values),
    ):
        yield


class _RecordedConvolutions(TorchFunctionMode):
    """Call ``aten::_convolution`` from the top, where the tracer records it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)) | dict(kwargs or {})
        if func not in _ARGUMENTS or isinstance(named.get("padding"), str):
            return func(*args, **(kwargs or {}))
        return _convolution(**named)


_PLAIN = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _PLAIN),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _TRANSPOSED),
}


def _convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = None,
) -> torch.Tensor:
    def sides(n: Any) -> tuple[int, ...]:
        return (n,) * (weight.dim() - 2) if isinstance(n, int) else tuple(n)

    # The flags choose among kernels, and none runs.
    return torch._convolution(
        input,
        weight,
        bias,
        sides(stride),
        sides(padding),
        sides(dilation),
        transposed=output_padding is not None,
        output_padding=sides(output_padding or 0),
        groups=groups,
        benchmark=False,
        deterministic=False,
        cudnn_enabled=False,
        allow_tf32=False,
    )


class _UntracedKernels(TorchDispatchMode):
    """Run every kernel in another thread: the tracer's state belongs to the one that traces.

    The operator has been recorded by the time its kernel runs.
    """

    def __init__(self, thread: ThreadPoolExecutor, values: SmallValues) -> None:
        super().__init__()
        self.thread = thread
        self.values = values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.is_view:
            # Views have kernels in C++, and must stay tied to this thread's autograd.
            return func(*args, **(kwargs or {}))
        if func is aten._convolution.default:
            func, args = aten.convolution.default, args[:9]
        return self.thread.submit(_run_kernel, self.values, func, args, kwargs or {}).result()


def _run_kernel(values: SmallValues, func: Any, args: Any, kwargs: Any) -> Any:
    # A mode runs below autograd, which has handled the call already; a new thread must be told. Nor does it
    # know the modes of the one that traces.
    with torch._C._AutoDispatchBelowAutograd(), values:
        return func(*args, **kwargs)

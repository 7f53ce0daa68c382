"""A layer's work on rows of channels, in float32 on a CPU, for inference: products and what lies between.

Torch's own operators write a new tensor each, which the system has to clear page by page, and read it again
for the next; a matrix product with a bias copies the bias first and then adds to it. These work in place or
on memory of the caller's. Nothing here has a gradient.

Legend: K rows (tokens or pixels), C channels.
"""

import ctypes
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from segmeter.cuda_ops import cpu_kernel
from segmeter.cuda_ops.implementation import implementation_for

# Of 256 channels a block of rows has 1 MiB, and 4 MiB of an FFN's hidden ones: what the next step reads of
# it lies in the caches.
ROWS = 1024
SEES_NOTHING = "_segmeter_sees_nothing"
_POINTER, _WHOLE = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "segmeter_pack": (_POINTER, _WHOLE, _WHOLE, _POINTER, _WHOLE),
    "segmeter_product": (_POINTER, _WHOLE, _WHOLE, *3 * (_POINTER,), *5 * (_WHOLE,)),
    "segmeter_add_bias": (_POINTER, _POINTER, *4 * (_WHOLE,)),
    "segmeter_add_norm": (*5 * (_POINTER,), _WHOLE, _WHOLE, ctypes.c_double, _WHOLE),
    "segmeter_group_norm": (*3 * (_POINTER,), *3 * (_WHOLE,), ctypes.c_double, _WHOLE, _WHOLE),
    "segmeter_pool": (_POINTER, *4 * (_WHOLE,)),
    "segmeter_add_enlarged": (*2 * (_POINTER,), *6 * (_WHOLE,)),
}


def serve(tensor: Tensor, *modules: nn.Module) -> bool:
    """Whether a pass over this tensor may go by rows: inference in float32 on a CPU that nobody traces.

    The modules are those whose parameters are used: they are plain float32 too.
    """
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and _get_current_dispatch_mode() is None
        and all(_is_plain(parameter) for module in modules for parameter in module.parameters(recurse=False))
        and implementation_for("cpu", torch.float32).name == "cpu-kernel"
    )


def is_watched(module: nn.Module) -> bool:
    """Whether hooks may look at what the module takes or gives."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(hasattr(hook, SEES_NOTHING) for hook in hooks)


def sees_nothing(hook: Callable[..., None]) -> Callable[..., None]:
    """Say of a hook that it looks at no tensor, so that a layer may run as it does without it."""
    setattr(hook, SEES_NOTHING, True)
    return hook


def _is_plain(parameter: Tensor) -> bool:
    return (
        type(parameter) is nn.Parameter
        and parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and parameter.is_contiguous()
    )


@cache
def _library() -> ctypes.CDLL:
    library = cpu_kernel.library()
    for name, types in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, ctypes.c_int
    library.segmeter_large_pages.argtypes, library.segmeter_large_pages.restype = (_POINTER, _WHOLE), None
    library.segmeter_packed_size.argtypes = (_WHOLE, _WHOLE)
    library.segmeter_packed_size.restype = _WHOLE
    return library


def _call(name: str, *arguments: Tensor | float | None) -> None:
    given = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    failure = getattr(_library(), name)(*given, torch.get_num_threads())
    if failure:
        raise RuntimeError(f"the CPU kernel failed: {cpu_kernel.FAILURES.get(failure, failure)}")


def block(length: int) -> int:
    """Rows that are worked on at a time: what lies between two steps stays in the caches of all threads."""
    return min(ROWS * torch.get_num_threads(), length)


def parts(length: int) -> Iterator[slice]:
    """The blocks of that many rows."""
    step = block(length)
    for first in range(0, length, step):
        yield slice(first, min(first + step, length))


def empty(*shape: int) -> Tensor:
    """New float32 memory, on large pages: with those of 4 KiB, the first touch costs as much as the work."""
    made = torch.empty(shape, dtype=torch.float32)
    _library().segmeter_large_pages(made.data_ptr(), 4 * made.numel())
    return made


def packed(weight: Tensor) -> Tensor | None:
    """A weight (C_out, C_in) in the order in which the kernel reads it; None where there is no such kernel.

    Worth doing once for several products; it must not outlive the call that the weight was read in.
    """
    size = _library().segmeter_packed_size(*weight.shape)
    if not size:
        return None
    made = torch.empty(size, dtype=torch.float32)
    _call("segmeter_pack", weight, *weight.shape, made)
    return made


def product(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    relu: bool = False,
    panels: Tensor | None = None,
) -> Tensor:
    """``rows @ weight.T + bias`` (K, C_out) into ``out``, then ReLU if asked for.

    ``panels`` are the packed weight. Without AVX-512 it is torch's product, without the copy of the bias.
    """
    panels = packed(weight) if panels is None else panels
    if panels is not None:
        _call("segmeter_product", rows, *rows.stride(), panels, bias, out, *out.shape, rows.shape[1], relu)
    else:
        torch.mm(rows, weight.t(), out=out)
        if bias is not None:
            _call("segmeter_add_bias", out, bias, *out.shape, relu)
        elif relu:
            out.relu_()
    return out


def add_norm_and_ffn_(
    tokens: Tensor,
    others: Tensor,
    norm1: nn.LayerNorm,
    linear1: nn.Linear,
    linear2: nn.Linear,
    norm2: nn.LayerNorm,
) -> Tensor:
    """The rest of a post-norm layer on what its attention gave, in place.

    ``x = norm1(tokens + others)``, then ``norm2(x + linear2(relu(linear1(x))))``. The hidden channels of all
    tokens are never there at once.

    Args:
        tokens: (B, K, C).
        others: (B, K, C).
        norm1, norm2: torch's, or called as ``norm(rows, others, out)``.
        linear1, linear2: torch's, or called as ``linear(rows, out, relu, panels)``.
    """
    step = block(tokens.shape[1])
    hidden, update = empty(step, linear1.out_features), empty(step, linear2.out_features)
    first, second = packed(linear1.weight), packed(linear2.weight)
    for image, other in zip(tokens, others, strict=True):
        other = other.contiguous()
        for part in parts(len(image)):
            rows = _normed(norm1, image[part], other[part], image[part])
            inner = _linear(linear1, rows, hidden[: len(rows)], True, first)
            _normed(norm2, rows, _linear(linear2, inner, update[: len(rows)], False, second), rows)
    return tokens


def _linear(linear: nn.Linear, rows: Tensor, out: Tensor, relu: bool, panels: Tensor | None) -> Tensor:
    if type(linear) is nn.Linear:
        return product(rows, linear.weight, linear.bias, out, relu, panels)
    found: Tensor = linear(rows, out, relu, panels)
    return found


def _normed(norm: nn.LayerNorm, rows: Tensor, others: Tensor, out: Tensor) -> Tensor:
    if type(norm) is nn.LayerNorm:
        return add_norm(rows, others, norm, out)
    found: Tensor = norm(rows, others, out)
    return found


def add_norm(rows: Tensor, others: Tensor, norm: nn.LayerNorm, out: Tensor) -> Tensor:
    """The layer norm of the sum (K, C) into ``out``, which may be either summand."""
    _call("segmeter_add_norm", rows, others, norm.weight, norm.bias, out, *out.shape, norm.eps)
    return out


def group_norm_(rows: Tensor, norm: nn.GroupNorm, relu: bool = False) -> Tensor:
    """A map's pixels (K, C), normed over all pixels and each group's channels, in place."""
    _call("segmeter_group_norm", rows, norm.weight, norm.bias, *rows.shape, norm.num_groups, norm.eps, relu)
    return rows


def max_pool_(pixels: Tensor) -> Tensor:
    """A 3x3 max-pool of stride 1 of a map (H, W, C), in place."""
    _call("segmeter_pool", pixels, *pixels.shape)
    return pixels


def add_enlarged_(pixels: Tensor, others: Tensor) -> Tensor:
    """Add a map (h, w, C), bilinearly resized, to a larger one (H, W, C), in place."""
    _call("segmeter_add_enlarged", pixels, others, *pixels.shape[:2], *others.shape)
    return pixels


def is_pointwise(convolution: nn.Conv2d) -> bool:
    """Whether each pixel is worked on by itself, all channels together."""
    settings = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.groups)
    return settings == ((1, 1), (1, 1), (0, 0), 1)


def pointwise(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A 1x1 convolution as a matrix product of the pixels, where :func:`serve` has said yes."""
    found = new_maps(x, convolution.out_channels)
    for image, out in zip(x, found, strict=True):
        product(
            pixels(image).flatten(0, 1),
            convolution.weight.flatten(1),
            convolution.bias,
            pixels(out).flatten(0, 1),
        )
    return found


def by_rows(x: Tensor, *modules: nn.Module) -> bool:
    """Whether these modules may run on memory of the caller's: nobody looks at what they take and give."""
    return serve(x, *modules) and not any(is_watched(module) for module in modules)


def new_maps(like: Tensor, channels: int) -> Tensor:
    """New memory (B, C, H, W) of a map's size, a pixel's channels side by side."""
    batch, _, height, width = like.shape
    return empty(batch, height, width, channels).permute(0, 3, 1, 2)


def pixels(image: Tensor) -> Tensor:
    """(C, H, W) whose channels lie side by side -> (H, W, C)."""
    return image.permute(1, 2, 0)

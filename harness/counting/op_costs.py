"""What one operator call costs: formulas that see integers, and the table that finds them.

A cost has two figures:

- ``macs``: multiply-accumulates at the weights of fvcore, the counter behind the papers' figures. One
  multiply-accumulate is 1; a norm is 5 per element (4 without affine; batch norm in eval mode 2 or 1),
  bilinear upsampling 4 and nearest upsampling 1 per output element.
- ``flops``: floating-point operations. A multiply-accumulate is 2, a bias 1 per output; norms are counted
  by their arithmetic (layer and group norm 8 per element, batch norm in eval mode 2); elementwise work is
  1 per output element, but softmax 5 (maximum, difference, exponential, sum, quotient), sigmoid 4, SiLU 5
  and GELU 5.

Operators that only move, create, index or compare data cost nothing. An operator that is in none of the
tables has no formula: the counter reports it by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from segmeter.cuda_ops import formulas

Shape = Sequence[int]


@dataclass(frozen=True)
class Cost:
    """Cost of one call under one operator name; see the module's docstring for the units."""

    operator: str
    macs: int
    flops: int


def conv_macs(weight: Shape, output: Shape) -> int:
    """MACs of a convolution: every output element sums over the weight's (C_in/groups, kH, kW).

    >>> conv_macs((8, 3, 3, 3), (1, 8, 10, 10))  # 800 outputs * 27
    21600
    """
    return prod(output) * prod(weight[1:])


def transposed_conv_macs(weight: Shape, inputs: Shape) -> int:
    """MACs of a transposed convolution: every input element feeds the weight's (C_out/groups, kH, kW)."""
    return prod(inputs) * prod(weight[1:])


def matmul_macs(left: Shape, output: Shape) -> int:
    """MACs of (batched) matrix products: every output element sums over the left's last dimension.

    >>> matmul_macs((4, 6), (4, 5))  # 20 outputs * 6
    120
    """
    return prod(output) * left[-1]


def attention_costs(query: Shape, key: Shape, value: Shape) -> list[Cost]:
    """Cost of scaled dot-product attention: both products and the softmax between them.

    Args:
        query: (..., Q, D). key: (..., K, D). value: (..., K, E).
    """
    batch = prod(torch.broadcast_shapes(tuple(query[:-2]), _grouped(query, key)))
    return attention_products(batch * query[-2] * key[-2], query[-1], value[-1])


def attention_products(scores: int, channels: int, value_channels: int) -> list[Cost]:
    """Cost of attention by the number of its scores: both products and the softmax between them."""
    query_key, weights_value = scores * channels, scores * value_channels
    return [
        Cost("attention_scores", query_key, 2 * query_key),
        Cost("softmax", 0, 5 * scores),
        Cost("attention_values", weights_value, 2 * weights_value),
    ]


def _grouped(query: Shape, key: Shape) -> tuple[int, ...]:
    """Batch dimensions of the keys; grouped-query attention repeats them up to the queries' heads."""
    batch = tuple(key[:-2])
    if len(batch) == len(query) - 2 and batch and batch[-1] != query[-3]:
        return (*batch[:-1], query[-3])
    return batch


def _mac(operator: str, macs: int, biased_outputs: int = 0) -> list[Cost]:
    return [Cost(operator, macs, 2 * macs + biased_outputs)]


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape)


def _convolution(args: Any, out: Any) -> list[Cost]:
    inputs, weight = args[0], args[1]
    biased_outputs = out.numel() if args[2] is not None else 0
    transposed = args[6] if len(args) > 6 else False
    if transposed:
        return _mac("conv", transposed_conv_macs(_shape(weight), _shape(inputs)), biased_outputs)
    return _mac("conv", conv_macs(_shape(weight), _shape(out)), biased_outputs)


def _addmm(args: Any, out: Any) -> list[Cost]:
    return _mac("linear", matmul_macs(_shape(args[1]), _shape(out)), out.numel())


def _mm(args: Any, out: Any) -> list[Cost]:
    return _mac("linear", matmul_macs(_shape(args[0]), _shape(out)))


def _bmm(args: Any, out: Any) -> list[Cost]:
    return _mac("matmul", matmul_macs(_shape(args[0]), _shape(out)))


def _baddbmm(args: Any, out: Any) -> list[Cost]:
    return _mac("matmul", matmul_macs(_shape(args[1]), _shape(out)))


def _vector_product(args: Any, out: Any) -> list[Cost]:
    return _mac("matmul", args[0].numel())


def _fused_attention(args: Any, out: Any) -> list[Cost]:
    return attention_costs(*(_shape(x) for x in args[:3]))


def _layer_norm(args: Any, out: Any) -> list[Cost]:
    elements = args[0].numel()
    affine = args[2] is not None
    return [Cost("layer_norm", elements * (5 if affine else 4), elements * (8 if affine else 6))]


def _group_norm(args: Any, out: Any) -> list[Cost]:
    elements = args[0].numel()
    affine = args[1] is not None
    return [Cost("group_norm", elements * (5 if affine else 4), elements * (8 if affine else 6))]


def _batch_norm(args: Any, out: Any) -> list[Cost]:
    elements = args[0].numel()
    affine = args[1] is not None
    training = args[5] if isinstance(args[5], bool) else False
    if training:
        return [Cost("batch_norm", elements * (5 if affine else 4), elements * (8 if affine else 6))]
    # In eval mode scale and shift are known per channel: one multiply and one add per element.
    return [Cost("batch_norm", elements * (2 if affine else 1), 2 * elements)]


def _per_output(operator: str, macs: int, flops: int) -> Callable[[Any, Any], list[Cost]]:
    def cost(args: Any, out: Any) -> list[Cost]:
        elements = (out[0] if isinstance(out, tuple | list) else out).numel()
        return [Cost(operator, macs * elements, flops * elements)]

    return cost


def _per_input(operator: str, macs: int, flops: int) -> Callable[[Any, Any], list[Cost]]:
    def cost(args: Any, out: Any) -> list[Cost]:
        elements = args[0].numel()
        return [Cost(operator, macs * elements, flops * elements)]

    return cost


def _window_pool(args: Any, out: Any) -> list[Cost]:
    output = out[0] if isinstance(out, tuple | list) else out
    kernel = args[1]
    window = prod(kernel) if len(kernel) > 1 else kernel[0] ** 2
    return [Cost("pooling", 0, output.numel() * window)]


def _deformable(args: Any, out: Any) -> list[Cost]:
    elements = formulas.sampled_elements(_shape(args[0]), _shape(args[3]))
    return _mac("deform_sampling", formulas.sampling_macs(elements)) + _mac(
        "deform_weighting", formulas.weighting_macs(elements)
    )


def _deformable_fused(args: Any, out: Any) -> list[Cost]:
    offsets, logits = _shape(args[4]), _shape(args[5])
    elements = formulas.sampled_elements(_shape(args[0]), offsets)
    # What the plain op leaves to torch: a softmax, and a division and an addition for each coordinate.
    return [
        *_mac("deform_sampling", formulas.sampling_macs(elements)),
        *_mac("deform_weighting", formulas.weighting_macs(elements)),
        Cost("softmax", 0, 5 * prod(logits)),
        Cost("elementwise", 0, 2 * prod(offsets)),
    ]


def _deformable_convolution(args: Any, out: Any) -> list[Cost]:
    inputs, weight, modulation = args[0], args[1], args[3]
    taps = prod(weight.shape[2:]) * inputs.shape[1] * out.numel() // out.shape[1]
    # Every input channel is sampled at every tap of every output position: 4 bilinear corners, 1 factor.
    modulated = 1 if modulation.numel() else 0
    return [
        *_mac("deform_conv", conv_macs(_shape(weight), _shape(out))),
        *_mac("deform_conv_sampling", (4 + modulated) * taps),
    ]


_FORMULAS: dict[str, Callable[[Any, Any], list[Cost]]] = {
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::addmm": _addmm,
    "aten::mm": _mm,
    "aten::bmm": _bmm,
    "aten::baddbmm": _baddbmm,
    "aten::mv": _vector_product,
    "aten::dot": _vector_product,
    "aten::_scaled_dot_product_flash_attention": _fused_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _fused_attention,
    "aten::_scaled_dot_product_efficient_attention": _fused_attention,
    "aten::_scaled_dot_product_cudnn_attention": _fused_attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _fused_attention,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_group_norm": _group_norm,
    "aten::native_batch_norm": _batch_norm,
    "aten::cudnn_batch_norm": _batch_norm,
    "aten::_native_batch_norm_legit": _batch_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
    "aten::_batch_norm_no_update": _batch_norm,
    "aten::upsample_bilinear2d": _per_output("upsample_bilinear", 4, 8),
    "aten::_upsample_bilinear2d_aa": _per_output("upsample_bilinear", 4, 8),
    "aten::upsample_bicubic2d": _per_output("upsample_bicubic", 16, 32),
    # As a plain bicubic resize: how far its kernel is stretched depends on the scale.
    "aten::_upsample_bicubic2d_aa": _per_output("upsample_bicubic_antialiased", 16, 32),
    "aten::upsample_linear1d": _per_output("upsample_linear", 2, 4),
    "aten::upsample_nearest2d": _per_output("upsample_nearest", 1, 0),
    "aten::grid_sampler_2d": _per_output("grid_sampler", 4, 8),
    "aten::_adaptive_avg_pool2d": _per_input("pooling", 1, 1),
    "aten::mean": _per_input("pooling", 0, 1),
    "aten::avg_pool2d": _window_pool,
    "aten::max_pool2d_with_indices": _window_pool,
    "aten::_softmax": _per_output("softmax", 0, 5),
    "aten::_safe_softmax": _per_output("softmax", 0, 5),
    "aten::_log_softmax": _per_output("softmax", 0, 5),
    "aten::linalg_vector_norm": _per_input("elementwise", 0, 2),
    "aten::sigmoid": _per_output("elementwise", 0, 4),
    "aten::silu": _per_output("elementwise", 0, 5),
    "aten::gelu": _per_output("elementwise", 0, 5),
    # Elementwise too, but not tagged so.
    "aten::hardswish": _per_output("elementwise", 0, 1),
    "aten::mish": _per_output("elementwise", 0, 1),
    "aten::_prelu_kernel": _per_output("elementwise", 0, 1),
    "aten::glu": _per_output("elementwise", 0, 5),
    "aten::log_sigmoid_forward": _per_output("elementwise", 0, 4),
    "aten::sum": _per_input("elementwise", 0, 1),
    "aten::cumsum": _per_output("elementwise", 0, 1),
    "torchvision::deform_conv2d": _deformable_convolution,
    "segmeter::ms_deform_attn": _deformable,
    "segmeter::ms_deform_attn_fused": _deformable_fused,
}

# What users registered: a module that is loaded again may register its formula again.
_REGISTERED: set[str] = set()

# Move, create, index, compare or sort: no floating-point arithmetic to speak of.
_FREE = frozenset(
    "aten::" + name
    for name in [
        "_fused_sdp_choice",
        "_has_compatible_shallow_copy_type",
        "_is_all_true",
        "_is_any_true",
        "_local_scalar_dense",
        "_pack_padded_sequence",
        "_reshape_alias",
        "_reshape_copy",
        "_to_copy",
        "_unsafe_index",
        "_unsafe_view",
        "allclose",
        "amax",
        "amin",
        "any",
        "all",
        "arange",
        "as_strided_",
        "argmax",
        "argmin",
        "argsort",
        "bincount",
        "bitwise_and",
        "bitwise_not",
        "bitwise_or",
        "cat",
        "clone",
        "constant_pad_nd",
        "copy",
        "copy_",
        "detach",
        "detach_",
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "eq",
        "equal",
        "eye",
        "embedding",
        "fill",
        "fill_",
        "flip",
        "full",
        "full_like",
        "gather",
        "ge",
        "gt",
        "index",
        "index_copy",
        "index_fill",
        "index_fill_",
        "index_put",
        "index_put_",
        "index_select",
        "is_same_size",
        "isfinite",
        "isinf",
        "isnan",
        "item",
        "le",
        "lift_fresh",
        "linspace",
        "logical_and",
        "logical_not",
        "logical_or",
        "logical_xor",
        "lt",
        "masked_fill",
        "masked_fill_",
        "masked_scatter",
        "masked_select",
        "multinomial",
        "max",
        "min",
        "native_dropout",
        "ne",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "nonzero",
        "normal_",
        "one_hot",
        "ones",
        "ones_like",
        "pad",
        "pixel_shuffle",
        "pixel_unshuffle",
        "prod",
        "rand",
        "rand_like",
        "randint",
        "randn",
        "randperm",
        "reflection_pad2d",
        "repeat",
        "repeat_interleave",
        "replication_pad2d",
        "resize_",
        "roll",
        "scalar_tensor",
        "scatter",
        "scatter_",
        "searchsorted",
        "select_backward",
        "select_scatter",
        "set_",
        "slice_scatter",
        "sort",
        "split_with_sizes_copy",
        "stack",
        "sym_numel",
        "sym_size",
        "sym_stride",
        "topk",
        "tril",
        "triu",
        "unfold_copy",
        "unique_consecutive",
        "_unique2",
        "uniform_",
        "where",
        "zero_",
        "zeros",
        "zeros_like",
        "bernoulli_",
        "random_",
        "dropout",
        "im2col",
        "col2im",
    ]
)


def register_formula(operator: str, macs: Callable[..., int]) -> None:
    """Give an operator of your own a cost.

    Args:
        operator: its qualified name, e.g. ``mylib::fused_ffn``.
        macs: takes the operator's positional arguments (tensors, maybe on meta: read shapes only) and
            returns its multiply-accumulates.

    Raises:
        ValueError: the name has no namespace, or the operator has a formula already.
    """
    namespace, separator, name = operator.partition("::")
    if not (namespace and separator and name):
        raise ValueError(f"expected an operator's name such as mylib::fused_ffn, got {operator!r}")
    if operator in _FORMULAS and operator not in _REGISTERED:
        raise ValueError(f"{operator} has a formula already")

    def cost(args: Any, out: Any) -> list[Cost]:
        found = macs(*args)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise ValueError(f"the formula of {operator} must return a whole number of MACs, got {found!r}")
        return _mac(operator, found)

    _FORMULAS[operator] = cost
    _REGISTERED.add(operator)


@lru_cache(maxsize=4096)
def _is_pointwise(op: torch._ops.OpOverload) -> bool:
    if torch.Tag.pointwise in op.tags:
        return True
    # Some in-place variants (threshold_) lack the tag that their plain variant carries.
    namespace, _, name = op._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    plain = getattr(packet, op._overloadname, None) if name.endswith("_") else None
    return plain is not None and torch.Tag.pointwise in plain.tags


def costs_of(op: torch._ops.OpOverload, args: Sequence[Any], out: Any) -> list[Cost] | None:
    """Cost of one dispatched call, one entry per kind of work; None where no formula exists.

    Args:
        op: the operator, e.g. ``torch.ops.aten.addmm.default``.
        args: its positional arguments.
        out: its result.
    """
    name = op._schema.name
    formula = _FORMULAS.get(name) or _FORMULAS.get(name.removesuffix("_"))
    if formula is not None:
        return formula(args, out)
    if name in _FREE or op.is_view:
        return []
    if _is_pointwise(op):
        first = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return []
        return [Cost("elementwise", 0, first.numel())]
    return None

"""What one operator call costs: the table that finds its formula.

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
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from segmeter.harness.counting import elements, products
from segmeter.harness.counting.elements import Formula, per_input, per_output, window_pool
from segmeter.harness.counting.free_ops import is_free
from segmeter.harness.counting.products import Cost, attention_costs, attention_products, conv_macs

__all__ = [
    "Cost",
    "attention_costs",
    "attention_products",
    "conv_macs",
    "costs_of",
    "register_formula",
]


def _same(formula: Formula, names: str) -> dict[str, Formula]:
    """One formula for several operators; those without a namespace are torch's own."""
    return {name if "::" in name else f"aten::{name}": formula for name in names.split()}


_FORMULAS: dict[str, Formula] = {
    **_same(
        products.convolution,
        "convolution _convolution convolution_overrideable cudnn_convolution cudnn_convolution_relu "
        "mkldnn_convolution mkldnn::_convolution_pointwise",
    ),
    **_same(products.time_convolution, "conv_tbc"),
    **_same(
        products.quantised_convolution,
        "quantized::conv1d quantized::conv1d_relu quantized::conv1d_dynamic quantized::conv2d "
        "quantized::conv2d_relu quantized::conv2d_dynamic quantized::conv3d quantized::conv3d_relu "
        "quantized::conv3d_dynamic",
    ),
    **_same(
        products.quantised_linear,
        "quantized::linear quantized::linear_relu quantized::linear_dynamic quantized::linear_relu_dynamic "
        "quantized::linear_dynamic_fp16 quantized::linear_relu_dynamic_fp16",
    ),
    **_same(products.linear, "linear mkldnn_linear mkldnn::_linear_pointwise"),
    **_same(products.addmm, "addmm _addmm_activation _sparse_addmm sspaddmm"),
    **_same(products.mm, "mm hspmm _sparse_mm_reduce_impl"),
    **_same(
        products.plain_mm,
        "_int_mm _scaled_mm _scaled_mm_v2 _weight_int4pack_mm _weight_int4pack_mm_for_cpu "
        "_weight_int4pack_mm_with_scales_and_zeros _weight_int8pack_mm _dyn_quant_matmul_4bit "
        "_mixed_dtypes_linear quantized::matmul",
    ),
    **_same(products.half_mm, "_sparse_semi_structured_linear"),
    **_same(products.packed_half_mm, "_sparse_semi_structured_mm"),
    **_same(products.compressed_mm, "_cslt_sparse_mm"),
    **_same(products.sparse_mm, "_sparse_sparse_matmul"),
    **_same(products.bmm, "bmm"),
    **_same(products.baddbmm, "baddbmm"),
    **_same(products.addbmm, "addbmm"),
    **_same(products.vector_product, "mv dot vdot"),
    **_same(products.addmv, "addmv"),
    **_same(products.addr, "addr"),
    **_same(products.grouped_mm, "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2"),
    **_same(products.sampled_mm, "sparse_sampled_addmm"),
    **_same(products.trilinear, "_trilinear"),
    **_same(products.distance, "_cdist_forward _euclidean_dist _pdist_forward"),
    **_same(products.complex_fourier, "_fft_c2c"),
    **_same(products.real_fourier, "_fft_r2c"),
    **_same(products.inverse_real_fourier, "_fft_c2r"),
    **_same(products.recurrent, "mkldnn_rnn_layer"),
    **_same(products.cudnn_recurrent, "_cudnn_rnn"),
    **_same(products.miopen_recurrent, "miopen_rnn"),
    **_same(products.fused_cell(2), "_thnn_fused_lstm_cell"),
    **_same(products.fused_cell(3), "_thnn_fused_gru_cell"),
    **_same(
        products.fused_attention,
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    **_same(products.flash_attention, "_flash_attention_forward _efficient_attention_forward"),
    **_same(products.deformable_convolution, "torchvision::deform_conv2d"),
    **_same(products.deformable, "segmeter::ms_deform_attn"),
    **_same(products.deformable_fused, "segmeter::ms_deform_attn_fused"),
    **_same(elements.layer_norm, "native_layer_norm"),
    **_same(elements.group_norm, "native_group_norm"),
    **_same(
        elements.batch_norm,
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_functional _native_batch_norm_legit_no_training _batch_norm_no_update "
        "quantized_batch_norm",
    ),
    **_same(elements.training_batch_norm, "_batch_norm_with_update _batch_norm_with_update_functional"),
    **_same(elements.weight_norm, "_weight_norm_interface"),
    **_same(per_output("upsample_bilinear", 4, 8), "upsample_bilinear2d _upsample_bilinear2d_aa"),
    **_same(per_output("upsample_trilinear", 8, 16), "upsample_trilinear3d"),
    **_same(per_output("upsample_bicubic", 16, 32), "upsample_bicubic2d"),
    # As a plain bicubic resize: how far its kernel is stretched depends on the scale.
    **_same(per_output("upsample_bicubic_antialiased", 16, 32), "_upsample_bicubic2d_aa"),
    **_same(per_output("upsample_lanczos", 36, 72), "_upsample_lanczos2d_aa"),
    **_same(per_output("upsample_linear", 2, 4), "upsample_linear1d"),
    **_same(
        per_output("upsample_nearest", 1, 0),
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d _upsample_nearest_exact3d",
    ),
    **_same(per_output("grid_sampler", 4, 8), "grid_sampler_2d cudnn_grid_sampler"),
    **_same(per_output("grid_sampler", 8, 16), "grid_sampler_3d"),
    **_same(elements.affine_grid, "affine_grid_generator cudnn_affine_grid_generator"),
    **_same(
        per_input("pooling", 1, 1), "_adaptive_avg_pool2d _adaptive_avg_pool3d mkldnn_adaptive_avg_pool2d"
    ),
    **_same(per_input("pooling", 0, 1), "mean adaptive_max_pool2d adaptive_max_pool3d"),
    **_same(window_pool(1), "avg_pool1d quantized_max_pool1d"),
    **_same(
        window_pool(2),
        "avg_pool2d max_pool2d_with_indices fractional_max_pool2d mkldnn_max_pool2d quantized_max_pool2d",
    ),
    **_same(
        window_pool(3),
        "avg_pool3d max_pool3d_with_indices fractional_max_pool3d mkldnn_max_pool3d quantized_max_pool3d",
    ),
    **_same(
        per_output("softmax", 0, 5),
        "softmax log_softmax quantized::softmax _softmax _safe_softmax _log_softmax _masked_softmax "
        "_sparse_softmax _sparse_log_softmax _nested_tensor_softmax_with_shape",
    ),
    **_same(
        per_output("elementwise", 0, 4),
        "sigmoid quantized::sigmoid log_sigmoid_forward logcumsumexp _logcumsumexp",
    ),
    **_same(per_output("elementwise", 0, 5), "silu gelu glu"),
    # Elementwise too, but not tagged so.
    **_same(
        per_output("elementwise", 0, 1),
        "hardswish mish _prelu_kernel cumsum cumprod dequantize _conj_physical rrelu_with_noise "
        "rrelu_with_noise_functional floor_divide quantized::add quantized::mul quantized::add_relu "
        "quantized::mul_relu quantized::add_scalar quantized::mul_scalar quantized::relu6 "
        "quantized::hardswish "
        "quantized::leaky_relu quantized::elu quantized::celu quantized::clamp quantized::threshold "
        "quantized::prelu",
    ),
    **_same(
        per_output("elementwise", 0, 2),
        "quantize_per_tensor quantize_per_tensor_dynamic quantize_per_channel",
    ),
    **_same(
        per_output("elementwise", 0, 3),
        "linalg_cross polar fake_quantize_per_tensor_affine_cachemask "
        "fake_quantize_per_channel_affine_cachemask "
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    ),
    # A sum is an addition for each element; a norm squares first; a variance has the mean, the difference,
    # the square and the sum; the logarithm of a sum of exponentials maximum, difference, exponential, sum.
    **_same(
        per_input("elementwise", 0, 1), "sum nansum prod trace _sparse_sum _sparse_csr_sum _sparse_csr_prod"
    ),
    **_same(per_input("elementwise", 0, 2), "linalg_vector_norm norm native_norm linalg__powsum"),
    **_same(
        per_input("elementwise", 0, 3), "renorm dist mse_loss smooth_l1_loss huber_loss soft_margin_loss"
    ),
    **_same(per_input("elementwise", 0, 4), "var var_mean std std_mean logsumexp"),
    **_same(per_input("elementwise", 0, 5), "binary_cross_entropy binary_cross_entropy_with_logits"),
    **_same(per_input("elementwise", 0, 1, at=1), "nll_loss_forward nll_loss2d_forward"),
    **_same(per_input("elementwise", 0, 1, at=3), "scatter_add scatter_reduce index_add index_reduce"),
    **_same(per_input("elementwise", 0, 1), "segment_reduce"),
    **_same(elements.embedding_bag, "_embedding_bag _embedding_bag_forward_only"),
}

# What users registered: a module that is loaded again may register its formula again.
_REGISTERED: set[str] = set()


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
        return products.multiplied(operator, found)

    _FORMULAS[operator] = cost
    _REGISTERED.add(operator)


@lru_cache(maxsize=4096)
def _is_pointwise(op: torch._ops.OpOverload) -> bool:
    if torch.Tag.pointwise in op.tags:
        return True
    # In-place variants (threshold_) and those that write into a given tensor may lack the plain one's tag.
    namespace, _, name = op._schema.name.partition("::")
    # torch's primitives, which forward-mode derivatives are made of, have no tags.
    names = torch.ops.aten if namespace == "prims" else getattr(torch.ops, namespace)
    packet = getattr(names, name.removesuffix("_"), None)
    overloads = () if packet is None else (getattr(packet, each) for each in packet.overloads())
    return any(torch.Tag.pointwise in each.tags for each in overloads)


@lru_cache(maxsize=4096)
def _foreach_of_pointwise(op: torch._ops.OpOverload) -> bool:
    """Whether it applies an elementwise operator to each tensor of a list."""
    name = op._schema.name.removeprefix("aten::_foreach_").removesuffix("_")
    packet = getattr(torch.ops.aten, name, None) if "_foreach_" in op._schema.name else None
    return packet is not None and any(_is_pointwise(getattr(packet, each)) for each in packet.overloads())


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
    if is_free(op):
        return []
    if _is_pointwise(op):
        first = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(first, Tensor) or not (first.is_floating_point() or first.is_complex()):
            return []
        return [Cost("elementwise", 0, first.numel())]
    return elements.each_of_a_list(args, out) if _foreach_of_pointwise(op) else None

"""What autocast does to an operator's inputs, for tensors on meta, which torch's own autocast passes over.

Only types matter here, so only operators whose outputs others keep are listed: products run in the lower
precision, what loses too much in single precision (torch's own lists, ATen/autocast_mode.h and .cpp).
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

# (device whose autocast is on, the lower precision)
State = tuple[str, torch.dtype]

_PRODUCTS = frozenset(
    {
        "aten::_convolution",
        "aten::addbmm",
        "aten::addmm",
        "aten::baddbmm",
        "aten::bmm",
        "aten::conv_tbc",
        "aten::convolution",
        "aten::linear",
        "aten::mm",
        "aten::scaled_dot_product_attention",
    }
)
_CUDA_PRODUCTS = _PRODUCTS | {
    "aten::_prelu_kernel",
    "aten::_thnn_fused_gru_cell",
    "aten::_thnn_fused_lstm_cell",
    "aten::addmv",
    "aten::addr",
    "aten::mv",
}
_SINGLE = {
    "cpu": "avg_pool3d grid_sampler_2d grid_sampler_3d polar prod _cdist_forward _euclidean_dist trace "
    "mse_loss smooth_l1_loss huber_loss binary_cross_entropy nll_loss_forward",
    "cuda": "native_layer_norm native_group_norm _softmax _log_softmax exp expm1 log log10 log1p log2 "
    "reciprocal rsqrt sinh cosh tan acos asin erfinv pow softplus cumsum cumprod sum prod logsumexp "
    "linalg_vector_norm norm dist renorm _cdist_forward _euclidean_dist _pdist_forward mse_loss "
    "smooth_l1_loss huber_loss soft_margin_loss nll_loss_forward upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d "
    "upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d "
    "upsample_bicubic2d _upsample_bicubic2d_aa",
}
_SINGLE_NAMES = {device: frozenset("aten::" + n for n in names.split()) for device, names in _SINGLE.items()}


# Functions that run other operators when they are taken apart, a bias in single precision among them.
_FUNCTIONS = frozenset(
    {
        *("linear", "matmul", "__matmul__", "__rmatmul__", "einsum", "addmm", "addbmm", "baddbmm"),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    }
)


def runs_lower(function: Any) -> bool:
    """Whether autocast runs a function of torch's in the lower precision, before it is taken apart."""
    return getattr(function, "__name__", "").partition(".")[0] in _FUNCTIONS


def autocast_state() -> State | None:
    """Which device's autocast is on here; asked before an operator is dispatched, for inside it none is."""
    if not torch._C._is_any_autocast_enabled():
        return None
    for device in _SINGLE:
        if torch.is_autocast_enabled(device):
            return device, torch.get_autocast_dtype(device)
    return None


def autocast_inputs(state: State, func: Any, args: Any) -> Any:
    """An operator's arguments, the tensors on meta among them in the type that autocast gives them."""
    device = state[0]
    name = func._schema.name
    if name in (_CUDA_PRODUCTS if device == "cuda" else _PRODUCTS):
        return autocast_products(state, args)
    return _cast(args, torch.float32) if name in _SINGLE_NAMES[device] else args


def autocast_products(state: State, values: Any) -> Any:
    """Nested arguments of products, the tensors on meta among them in the lower precision."""
    return _cast(values, state[1])


def _cast(values: Any, wanted: torch.dtype) -> Any:
    def cast(x: Tensor) -> Tensor:
        eligible = x.is_meta and x.is_floating_point() and x.dtype not in (wanted, torch.float64)
        return x.to(wanted) if eligible else x

    return tree_map_only(Tensor, cast, values)

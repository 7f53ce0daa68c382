"""A drop-in for the official extension: its functions, its module, under its names, on any machine.

Mask2Former, Deformable DETR, DINO and PRO-SCALE's code say ``import MultiScaleDeformableAttention as MSDA``
and call ``MSDA.ms_deform_attn_forward``; after :func:`install` that finds the op of this package, which needs
no build, runs on CPUs too, and knows half precision.
"""

import importlib.util
import math
import sys
import types
import warnings
from importlib.machinery import ModuleSpec

import torch
from torch import Tensor, nn

from segmeter.cuda_ops.op import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_gradients

EXTENSION = "MultiScaleDeformableAttention"


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """As the extension's: (B, S, M, D) values sampled into (B, Q, M*D).

    Args:
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights: as
            :func:`cuda_ops.op.ms_deform_attn` takes them.
        im2col_step: images that the extension takes at a time, at least 1. Batches are not parted here, so
            that one that it does not divide, which the extension refuses, is no error.

    Raises:
        ValueError: an argument's rank, size or content does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    _check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step)
    with torch.no_grad():
        return ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    im2col_step: int = 64,
) -> list[Tensor]:
    """As the extension's: gradients of value, sampling locations and attention weights.

    Raises:
        ValueError: an argument's rank, size or content does not fit the others.
        TypeError: an argument's dtype or device does not fit.
    """
    _check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step)
    _check_tensors(grad_output=grad_output)
    grads = ms_deform_attn_gradients(
        grad_output, value, spatial_shapes, level_start_index, sampling_locations, attention_weights
    )
    return list(grads)


def _check(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> None:
    _check_tensors(
        value=value,
        spatial_shapes=spatial_shapes,
        level_start_index=level_start_index,
        sampling_locations=sampling_locations,
        attention_weights=attention_weights,
    )
    if isinstance(im2col_step, bool) or not isinstance(im2col_step, int):
        raise TypeError(f"im2col_step must be an int, got {type(im2col_step).__name__}")
    if im2col_step < 1:
        raise ValueError(f"im2col_step must be at least 1, got {im2col_step}")


def _check_tensors(**given: Tensor) -> None:
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of layout {tensor.layout}")


def install() -> types.ModuleType:
    """Let ``import MultiScaleDeformableAttention`` find this op from now on, in this process.

    Where the extension itself is installed, a warning says that this op is taken in its place.

    Raises:
        ValueError: another module of that name is loaded already; it would be used by what imported it.
    """
    loaded = sys.modules.get(EXTENSION)
    if loaded is not None:
        if getattr(loaded, "ms_deform_attn_forward", None) is ms_deform_attn_forward:
            return loaded
        raise ValueError(
            f"{EXTENSION} is already imported from {getattr(loaded, '__file__', 'elsewhere')}; "
            "call segmeter.ops.install() before what imports it"
        )
    found = importlib.util.find_spec(EXTENSION)
    if found is not None:
        warnings.warn(
            f"segmeter's op is used in place of the installed extension {found.origin or EXTENSION}, "
            "until segmeter.ops.uninstall()",
            stacklevel=2,
        )
    module = types.ModuleType(EXTENSION, "segmeter's op under the official extension's name.")
    # What asks whether the extension is there asks for this.
    module.__spec__ = ModuleSpec(EXTENSION, None)
    module.ms_deform_attn_forward = ms_deform_attn_forward  # type: ignore[attr-defined]
    module.ms_deform_attn_backward = ms_deform_attn_backward  # type: ignore[attr-defined]
    sys.modules[EXTENSION] = module
    return module


def uninstall() -> None:
    """Take back what :func:`install` did; what was imported meanwhile keeps the op."""
    if stands_in():
        del sys.modules[EXTENSION]


def stands_in() -> bool:
    """Whether ``import MultiScaleDeformableAttention`` finds this op now."""
    loaded = sys.modules.get(EXTENSION)
    return getattr(loaded, "ms_deform_attn_forward", None) is ms_deform_attn_forward


class MultiScaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with the official module's parameters, names and initial values.

    Source: Deformable DETR (arXiv 2010.04159), section 4.1 and its appendix: sampling begins at the
    directions of a rose, one for each head, further out for each point, with equal weights.
    """

    def __init__(self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.d_model, self.n_levels, self.n_heads, self.n_points = d_model, n_levels, n_heads, n_points
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        rose = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rose = rose / rose.abs().amax(dim=-1, keepdim=True)
        further = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        start = rose[:, None, None, :] * further[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.expand(-1, self.n_levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: Tensor,
        input_level_start_index: Tensor,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference_points: (B, Q, L, 2) in [0, 1], or (B, Q, L, 4) boxes (cx, cy, w, h).
            input_flatten: (B, S, C), the tokens of all levels.
            input_spatial_shapes: (L, 2) int64.
            input_level_start_index: (L,) int64.
            input_padding_mask: (B, S) bool, True where a token is padding.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: reference points of another width.
        """
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], 0.0)
        value = value.unflatten(2, (self.n_heads, -1))
        grid = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).unflatten(2, (*grid, 2))
        logits = self.attention_weights(query).unflatten(2, grid)
        if reference_points.shape[-1] == 2:
            sampled = ms_deform_attn_fused(
                value, input_spatial_shapes, input_level_start_index, reference_points, offsets, logits
            )
        else:
            places = box_locations(reference_points, offsets, self.n_points)
            weights = logits.flatten(3).softmax(-1).view_as(logits)
            sampled = ms_deform_attn(
                value, input_spatial_shapes, input_level_start_index, places.to(value.dtype), weights
            )
        output: Tensor = self.output_proj(sampled)
        return output


def box_locations(boxes: Tensor, offsets: Tensor, points: int) -> Tensor:
    """Sampling locations around boxes: offsets are in halves of a box's sides, parted by the points.

    Args:
        boxes: (B, Q, L, 4), (cx, cy, w, h) in [0, 1].
        offsets: (B, Q, M, L, P, 2).
        points: P.

    Raises:
        ValueError: boxes of another width.
    """
    if boxes.shape[-1] != 4:
        raise ValueError(f"reference points must have 2 or 4 coordinates, got {boxes.shape[-1]}")
    centre, sides = boxes[:, :, None, :, None, :2], boxes[:, :, None, :, None, 2:]
    return centre + offsets / points * sides * 0.5

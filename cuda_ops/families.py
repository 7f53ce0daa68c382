"""How each library's deformable attention is called, and the same call on the compiled op."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops.around import added, linear, masked
from segmeter.cuda_ops.attend import attend, sample
from segmeter.cuda_ops.drop_in import box_locations
from segmeter.cuda_ops.level_sizes import level_tensors

KNOWN = "transformers' models, MSDeformAttn of the official codes, mmcv's MultiScaleDeformableAttention"
# Sampled there, a point is off every map and costs nothing.
OFF_THE_MAP = -2.0
# An attribute of classes whose forward is the op's.
MARK = "_segmeter_accelerated"


@dataclass(frozen=True)
class Family:
    """Layers that are called alike.

    Attributes:
        attribute: what of a layer is replaced: its ``forward``, or a function that it holds.
        parameters: the names that the replaced callable takes, in this order.
        function: what takes its place.
        refusal: says why a layer cannot be replaced, "" if it can.
    """

    attribute: str
    parameters: tuple[str, ...]
    function: Callable[..., Any]
    refusal: Callable[[nn.Module], str] = lambda module: ""

    def refuses(self, module: nn.Module) -> str:
        """Why this layer keeps its own path; "" where it need not."""
        holds = module.__dict__.get(self.attribute)
        replaced = holds is not None and self.attribute == "forward"
        if replaced or holds is self.function or hasattr(type(module), MARK):
            return f"its {self.attribute} has been replaced already"
        takes = list(inspect.signature(getattr(module, self.attribute)).parameters)
        if takes[: len(self.parameters)] != list(self.parameters):
            known = ", ".join(self.parameters)
            return f"it takes ({', '.join(takes)}), not ({known}) as the versions known here"
        return self.refusal(module)


def recognise(module: nn.Module) -> Family | None:
    """The family of a layer; None for every other module."""
    name = type(module).__name__
    if callable(getattr(module, "ms_deformable_attn_core", None)):
        return V2
    if name == "MSDeformAttn":
        return OFFICIAL
    if name == "MultiScaleDeformableAttention":
        # transformers' bare function has no parameters, mmcv's layer has.
        return MMCV if hasattr(module, "sampling_offsets") and hasattr(module, "embed_dims") else BARE
    if name == "RTDetrV2MultiscaleDeformableAttention":
        return RT_DETR_V2
    if name == "OneFormerPixelDecoderEncoderMultiscaleDeformableAttention":
        return ONE_FORMER
    if name.endswith("PixelDecoderEncoderMultiscaleDeformableAttention"):
        return PIXEL_DECODER
    return None


def _bare(
    self: nn.Module,
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: list[tuple[int, int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    return sample(value, value_spatial_shapes, level_start_index, sampling_locations, attention_weights)


def _v2(
    value: Tensor,
    value_spatial_shapes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: list[int],
    method: str = "default",
) -> Tensor:
    """(B, Q, M, P of all levels) samples, a number of points for each level."""
    shapes, starts = level_tensors(value_spatial_shapes, value.device)
    places = _by_level(sampling_locations, num_points_list, 3, OFF_THE_MAP)
    weights = _by_level(attention_weights, num_points_list, 3, 0.0)
    return sample(value, shapes, starts, places, weights)


def _by_level(samples: Tensor, points: Sequence[int], dim: int, filling: float) -> Tensor:
    """Samples of all levels in a row -> (.., L, P, ..), levels with fewer points filled up."""
    most = max(points)
    rows = []
    for row, number in zip(samples.split(list(points), dim=dim), points, strict=True):
        after = [0, 0] * (samples.dim() - dim - 1)
        rows.append(row if number == most else F.pad(row, (*after, 0, most - number), value=filling))
    return torch.stack(rows, dim=dim)


def _rt_detr_v2(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    position_embeddings: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    spatial_shapes_list: Any = None,
    level_start_index: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """transformers' RT-DETR v2: boxes, offsets scaled by a buffer; its mask says which tokens are there."""
    assert encoder_hidden_states is not None and reference_points is not None
    queries = hidden_states if position_embeddings is None else hidden_states + position_embeddings
    value = self.value_proj(encoder_hidden_states)
    if attention_mask is not None:
        value = value.masked_fill(~attention_mask[..., None], 0.0)
    if reference_points.shape[-1] != 4:
        raise ValueError(f"reference points must have 4 coordinates, got {reference_points.shape[-1]}")
    samples = sum(self.n_points_list)
    offsets = self.sampling_offsets(queries).unflatten(2, (self.n_heads, samples, 2))
    weights = self.attention_weights(queries).unflatten(2, (self.n_heads, samples)).softmax(-1)
    scale = self.n_points_scale.to(queries.dtype)[:, None] * self.offset_scale
    boxes = reference_points[:, :, None]
    places = boxes[..., :2] + offsets * scale * boxes[..., 2:]
    value = value.unflatten(2, (self.n_heads, -1))
    sampled = _v2(value, spatial_shapes_list, places, weights, self.n_points_list)
    return self.output_proj(sampled), weights


def _v2_refusal(module: nn.Module) -> str:
    method = getattr(module, "method", None) or getattr(module, "decoder_method", None) or "default"
    return "" if method == "default" else f"its method is {method!r}, which takes the nearest token"


def _pixel_decoder(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    position_embeddings: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes_list: Any = None,
    level_start_index: Tensor | None = None,
    output_attentions: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """transformers' Mask2Former: the attention weights are given back as well.

    Its encoder says that it does not want them, and then drops them: only then, and where no hook looks at
    them, they are not worked out.
    """
    assert encoder_hidden_states is not None and reference_points is not None
    queries = hidden_states if position_embeddings is None else added(hidden_states, position_embeddings)
    value = linear(self.value_proj, encoder_hidden_states)
    if attention_mask is not None:
        value = masked(value, attention_mask, self.value_proj)
    value = value.unflatten(2, (self.n_heads, -1))
    shapes, starts = level_tensors(spatial_shapes_list, value.device)
    sides = (self.n_heads, self.n_levels, self.n_points)
    if output_attentions is False and not self._forward_hooks:
        sampled = attend(self, value, queries, reference_points, shapes, starts, sides)
        return linear(self.output_proj, sampled), None
    offsets, weights = _projected(self, queries, *sides)
    places = _places(reference_points, offsets, shapes, self.n_points)
    return self.output_proj(sample(value, shapes, starts, places, weights)), weights


def _one_former(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    position_embeddings: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Any = None,
    level_start_index: Tensor | None = None,
    output_attentions: bool | None = None,
    spatial_shapes_list: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """transformers' OneFormer: as Mask2Former, its arguments in another order."""
    return _pixel_decoder(
        self,
        hidden_states,
        attention_mask,
        encoder_hidden_states,
        encoder_attention_mask,
        position_embeddings,
        reference_points,
        spatial_shapes.tolist() if spatial_shapes_list is None else spatial_shapes_list,
        output_attentions=output_attentions,
    )


def _official(
    self: Any,
    query: Tensor,
    reference_points: Tensor,
    input_flatten: Tensor,
    input_spatial_shapes: Tensor,
    input_level_start_index: Tensor,
    input_padding_mask: Tensor | None = None,
) -> Tensor:
    value = linear(self.value_proj, input_flatten)
    if input_padding_mask is not None:
        value = value.masked_fill(input_padding_mask[..., None], 0.0)
    value = value.unflatten(2, (self.n_heads, -1))
    sides = (self.n_heads, self.n_levels, self.n_points)
    sampled = attend(
        self, value, query, reference_points, input_spatial_shapes, input_level_start_index, sides
    )
    return linear(self.output_proj, sampled)


def _official_refusal(module: nn.Module) -> str:
    # DN-DAB-Deformable-DETR's layer, of the same name, may divide a box's offsets by the map's size as well.
    own_way = getattr(module, "use_4D_normalizer", False)
    return "it measures offsets in boxes in its own way (use_4D_normalizer)" if own_way else ""


def _mmcv(
    self: Any,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    identity: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    level_start_index: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """mmcv's layer: adds what it was given at the end, after its dropout."""
    assert reference_points is not None and spatial_shapes is not None and level_start_index is not None
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    if not self.batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    value = self.value_proj(value)
    if key_padding_mask is not None:
        value = value.masked_fill(key_padding_mask[..., None], 0.0)
    value = value.unflatten(2, (self.num_heads, -1))
    sides = (self.num_heads, self.num_levels, self.num_points)
    sampled = attend(self, value, query, reference_points, spatial_shapes, level_start_index, sides)
    output = self.output_proj(sampled)
    if not self.batch_first:
        output = output.transpose(0, 1)
    found: Tensor = self.dropout(output) + identity
    return found


def _projected(layer: Any, queries: Tensor, heads: int, levels: int, points: int) -> tuple[Tensor, Tensor]:
    """Offsets (B, Q, M, L, P, 2) and weights (B, Q, M, L, P), a softmax over a head's samples."""
    offsets = layer.sampling_offsets(queries).unflatten(2, (heads, levels, points, 2))
    logits = layer.attention_weights(queries).unflatten(2, (heads, levels * points))
    return offsets, logits.softmax(-1).unflatten(3, (levels, points))


def _places(points: Tensor, offsets: Tensor, shapes: Tensor, number: int) -> Tensor:
    """Sampling locations from reference points (B, Q, L, 2), or boxes (B, Q, L, 4)."""
    if points.shape[-1] == 2:
        sides = shapes.flip(-1)[None, None, None, :, None, :].to(offsets.dtype)
        return points[:, :, None, :, None, :] + offsets / sides
    return box_locations(points, offsets, number)


BARE = Family(
    "forward",
    (
        *("value", "value_spatial_shapes", "value_spatial_shapes_list", "level_start_index"),
        *("sampling_locations", "attention_weights", "im2col_step"),
    ),
    _bare,
)
V2 = Family(
    "ms_deformable_attn_core",
    (
        *("value", "value_spatial_shapes", "sampling_locations", "attention_weights", "num_points_list"),
        "method",
    ),
    _v2,
    _v2_refusal,
)
RT_DETR_V2 = Family(
    "forward",
    (
        *("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"),
        *("position_embeddings", "reference_points", "spatial_shapes", "spatial_shapes_list"),
        "level_start_index",
    ),
    _rt_detr_v2,
    _v2_refusal,
)
PIXEL_DECODER = Family(
    "forward",
    (
        *("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"),
        *("position_embeddings", "reference_points", "spatial_shapes_list", "level_start_index"),
        "output_attentions",
    ),
    _pixel_decoder,
)
ONE_FORMER = Family(
    "forward",
    (
        *("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"),
        *("position_embeddings", "reference_points", "spatial_shapes", "level_start_index"),
        *("output_attentions", "spatial_shapes_list"),
    ),
    _one_former,
)
OFFICIAL = Family(
    "forward",
    (
        *("query", "reference_points", "input_flatten", "input_spatial_shapes"),
        *("input_level_start_index", "input_padding_mask"),
    ),
    _official,
    _official_refusal,
)
MMCV = Family(
    "forward",
    (
        *("query", "key", "value", "identity", "query_pos", "key_padding_mask"),
        *("reference_points", "spatial_shapes", "level_start_index"),
    ),
    _mmcv,
)

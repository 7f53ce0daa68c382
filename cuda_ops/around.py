"""What stands around deformable attention in transformers' Mask2Former, by rows in inference on a CPU.

A forward here does as the class's own one wherever :mod:`cuda_ops.rows` does not serve: in training, when
traced, in other dtypes, where a hook looks.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.cuda_ops import rows

LAYER, DECODER = "Mask2FormerPixelDecoderEncoderLayer", "Mask2FormerPixelDecoder"


def forwards(module: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Modules, this one or its own, whose forward is to be replaced, each with what takes its place."""
    name = type(module).__name__
    if name == LAYER and _names_and_defaults(type(module).forward) == _names_and_defaults(_layer):
        yield module, _layer
    if name == DECODER:
        for child in module.modules():
            if type(child) is nn.Sequential and _is_convolution_and_norm(child):
                yield child, _convolution_and_norm
        projection = getattr(module, "mask_projection", None)
        if type(projection) is nn.Conv2d and rows.is_pointwise(projection):
            yield projection, _convolution


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, (..., C_in) -> (..., C_out)."""
    if type(layer) is not nn.Linear or x.dim() < 2 or not rows.by_rows(x, layer):
        found: Tensor = layer(x)
        return found
    each = x.flatten(0, -2)
    out = rows.product(each, layer.weight, layer.bias, rows.empty(len(each), layer.out_features))
    return out.view(*x.shape[:-1], layer.out_features)


def added(x: Tensor, other: Tensor) -> Tensor:
    """The sum of two tensors of one shape."""
    if x.shape != other.shape or other.dtype != x.dtype or not rows.serve(x):
        return x + other
    return torch.add(x, other, out=rows.empty(*x.shape))


def masked(value: Tensor, mask: Tensor, owner: nn.Module) -> Tensor:
    """What ``owner`` has just made, (B, K, C), with zeros where the mask (B, K) is set."""
    if rows.by_rows(value, owner) and type(owner) is nn.Linear:
        return value.masked_fill_(mask[..., None], 0.0)
    return value.masked_fill(mask[..., None], 0.0)


def _plain(module: nn.Module) -> Callable[..., Any]:
    """The forward of the class that this module's was made of."""
    made_of: Any = type(module).__mro__[1]
    found: Callable[..., Any] = made_of.forward
    return found


def _layer(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    position_embeddings: Tensor | None = None,
    reference_points: Any = None,
    spatial_shapes_list: Any = None,
    level_start_index: Any = None,
    output_attentions: bool = False,
) -> Any:
    asked = {
        "attention_mask": attention_mask,
        "position_embeddings": position_embeddings,
        "reference_points": reference_points,
        "spatial_shapes_list": spatial_shapes_list,
        "level_start_index": level_start_index,
        "output_attentions": output_attentions,
    }
    norms, linears = (self.self_attn_layer_norm, self.final_layer_norm), (self.fc1, self.fc2)
    attention = (self.self_attn, self.self_attn.output_proj)
    are_known = (
        all(type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
        and all(type(each) is nn.Linear for each in linears)
        and self.activation_fn in (F.relu, torch.relu)
    )
    by_rows = are_known and rows.by_rows(hidden_states, *attention, *norms, *linears)
    if self.training or output_attentions or not by_rows:
        return _plain(self)(self, hidden_states, **asked)
    attended, _ = self.self_attn(
        hidden_states=hidden_states,
        encoder_hidden_states=hidden_states,
        encoder_attention_mask=attention_mask,
        **asked,
    )
    updated = rows.add_norm_and_ffn_(attended, hidden_states, norms[0], *linears, norms[1])
    return (updated,)


def _names_and_defaults(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


def _is_convolution_and_norm(module: nn.Sequential) -> bool:
    kinds = [type(child) for child in module]
    return kinds in ([nn.Conv2d, nn.GroupNorm], [nn.Conv2d, nn.GroupNorm, nn.ReLU])


def _convolution_and_norm(self: Any, input: Tensor) -> Tensor:
    convolution, norm = self[0], self[1]
    if not _is_convolution_and_norm(self) or not norm.affine or not rows.by_rows(input, *self):
        found: Tensor = _plain(self)(self, input)
        return found
    if rows.is_pointwise(convolution):
        maps = rows.pointwise(input, convolution)
    else:
        maps = convolution(input.contiguous(memory_format=torch.channels_last))
    for image in maps:
        pixels = rows.pixels(image)
        if not pixels.is_contiguous():
            found = _plain(self)(self, input)
            return found
        rows.group_norm_(pixels.flatten(0, 1), norm, relu=len(self) == 3)
    return maps


def _convolution(self: Any, input: Tensor) -> Tensor:
    if rows.serve(input, self):
        return rows.pointwise(input, self)
    found: Tensor = _plain(self)(self, input)
    return found

"""Layers of mmcv's and the official codes' kind on the op: every way in which they are called."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segmeter
from segmeter import ops
from segmeter.cuda_ops import reference

SHAPES, STARTS = torch.tensor([[5, 7], [3, 4]]), torch.tensor([0, 35])
TOKENS, WIDTH, HEADS, LEVELS, POINTS = 47, 32, 4, 2, 3


def sampled(layer: Any, value: Tensor, query: Tensor, points: Tensor) -> Tensor:
    """What both kinds work out in plain torch, the sampling in the widest dtype."""
    offsets = layer.sampling_offsets(query).unflatten(2, (HEADS, LEVELS, POINTS, 2))
    weights = layer.attention_weights(query).unflatten(2, (HEADS, -1)).softmax(-1)
    weights = weights.unflatten(3, (LEVELS, POINTS))
    if points.shape[-1] == 2:
        places = points[:, :, None, :, None] + offsets / SHAPES.flip(-1)[None, None, None, :, None]
    else:
        boxes = points[:, :, None, :, None]
        places = boxes[..., :2] + offsets / POINTS * boxes[..., 2:] * 0.5
    return reference.forward(value.unflatten(2, (HEADS, -1)), SHAPES, places.to(value.dtype), weights)


class MultiScaleDeformableAttention(nn.Module):
    """Called as mmcv's layer of this name is."""

    def __init__(self, batch_first: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed_dims, self.num_heads, self.num_levels, self.num_points = WIDTH, HEADS, LEVELS, POINTS
        self.batch_first, self.dropout = batch_first, nn.Dropout(dropout)
        for name, child in ops.MultiScaleDeformableAttention(WIDTH, LEVELS, HEADS, POINTS).named_children():
            setattr(self, name, child)
        nn.init.normal_(self.attention_weights.weight)

    def forward(
        self, query, key=None, value=None, identity=None, query_pos=None, key_padding_mask=None,
        reference_points=None, spatial_shapes=None, level_start_index=None, **kwargs,
    ):  # fmt: skip
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.permute(1, 0, 2), value.permute(1, 0, 2)
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        output = self.output_proj(sampled(self, value, query, reference_points))
        if not self.batch_first:
            output = output.permute(1, 0, 2)
        return self.dropout(output) + identity


class MSDeformAttn(nn.Module):
    """Called as the official layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_levels, self.n_points = HEADS, LEVELS, POINTS
        for name, child in ops.MultiScaleDeformableAttention(WIDTH, LEVELS, HEADS, POINTS).named_children():
            setattr(self, name, child)
        nn.init.normal_(self.attention_weights.weight)

    def forward(
        self, query, reference_points, input_flatten, input_spatial_shapes, input_level_start_index,
        input_padding_mask=None,
    ):  # fmt: skip
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], 0.0)
        return self.output_proj(sampled(self, value, query, reference_points))


def drawn(points: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "query": torch.randn(2, TOKENS, WIDTH, generator=generator),
        "value": torch.randn(2, TOKENS, WIDTH, generator=generator),
        "identity": torch.randn(2, TOKENS, WIDTH, generator=generator),
        "query_pos": torch.randn(2, TOKENS, WIDTH, generator=generator),
        "reference_points": torch.rand(2, TOKENS, LEVELS, points, generator=generator),
        "key_padding_mask": torch.rand(2, TOKENS, generator=generator) < 0.2,
    }


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("points", [2, 4])
@pytest.mark.parametrize("without", ["", "value", "identity", "query_pos", "key_padding_mask"])
def test_a_layer_of_mmcvs_kind_stays_itself(batch_first: bool, points: int, without: str) -> None:
    torch.manual_seed(0)
    layer, inputs = MultiScaleDeformableAttention(batch_first), drawn(points)
    inputs.pop(without, None)
    if not batch_first:
        for name in ("query", "value", "identity", "query_pos"):
            if name in inputs:
                inputs[name] = inputs[name].transpose(0, 1)
    call = {**inputs, "spatial_shapes": SHAPES, "level_start_index": STARTS}
    expected = layer(**call)
    with segmeter.accelerate(nn.Sequential(layer)):
        torch.testing.assert_close(layer(**call), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(**call), expected, rtol=0, atol=0)


def test_dropout_draws_the_same_numbers_in_training() -> None:
    layer, inputs = MultiScaleDeformableAttention(True, dropout=0.5).train(), drawn()
    call = {**inputs, "spatial_shapes": SHAPES, "level_start_index": STARTS}
    torch.manual_seed(4)
    expected = layer(**call)
    with segmeter.accelerate(nn.Sequential(layer)):
        torch.manual_seed(4)
        torch.testing.assert_close(layer(**call), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("points", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_an_official_layer_stays_itself_in_every_dtype(points: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, inputs = MSDeformAttn(), drawn(points)
    names = ("query", "reference_points", "value")
    exact = layer.double()(*(inputs[name].double() for name in names), SHAPES, STARTS)
    layer.to(dtype)
    call = [*(inputs[name].to(dtype) for name in names), SHAPES, STARTS, inputs["key_padding_mask"]]
    with segmeter.accelerate(nn.Sequential(layer)), torch.no_grad():
        found = layer(*call)
        assert found.dtype == dtype and found.isfinite().all()
        unpadded = layer(*call[:-1])
    # Half precisions hold a location in a box to a few hundredths of a cell.
    loose = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    error = (unpadded.double() - exact).abs().max() / exact.abs().max()
    assert error < loose


def test_boxes_measured_in_another_way_are_refused() -> None:
    layer = MSDeformAttn()
    layer.use_4D_normalizer = True
    with pytest.raises(ValueError, match="use_4D_normalizer"):
        segmeter.accelerate(nn.Sequential(layer))


def test_threads_share_an_accelerated_layer_and_an_error_within_undoes_it() -> None:
    torch.manual_seed(0)
    layer, inputs = MSDeformAttn(), drawn()
    call = (inputs["query"], inputs["reference_points"], inputs["value"], SHAPES, STARTS)
    with torch.no_grad():
        expected = layer(*call)
    found: list[Tensor] = []

    def run() -> None:
        with torch.no_grad():
            found.append(layer(*call))

    with pytest.raises(RuntimeError, match="within"), segmeter.accelerate(nn.Sequential(layer)):
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raise RuntimeError("within")
    assert len(found) == 4
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    assert type(layer) is MSDeformAttn

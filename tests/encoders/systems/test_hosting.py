"""Encoders inside other systems: options that depend on the encoder, levels, gradients, half precision."""

import pytest
import torch
from torch import Tensor

from segmeter.cuda_ops import implementation_for, use_implementation
from segmeter.encoders.parts.key_aware import lite_attention
from segmeter.encoders.parts.layers import Levels, MSDeformAttn
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.models import parse_model, real_model

HOSTS = ("dino@r50", "maskdino@r50", "rt-detr@r50vd")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "dino:stages=1,1,1",
            "dino has no option 'stages' with encoder=own; it comes with encoder=pro-scale",
        ),
        (
            "maskdino:encoder=m2f:levels=3",
            "no option 'levels' with encoder=m2f; it comes with encoder=own",
        ),
        ("maskdino:encoder=pro", "unknown encoder 'pro'; did you mean 'pro-scale'?"),
        ("dino:encoder=pro-scale:stages=1,1", "stages must be three or four whole numbers"),
        ("rt-detr:encoder=pro-scale:stages=1,1,1,1", "stages must be three whole numbers"),
        ("dino:encoder=lite-m2f:pixel_embedding=lpe", "dino has no option 'pixel_embedding'"),
        ("dino:encoder=lite-m2f:high_level_layers=0:full_layers=0", "must not both be 0"),
        ("dino:levels=3", "levels must be a whole number from 4 to 5"),
        ("maskdino:task=boxes", "unknown task 'boxes'"),
        ("lite-dino:high_level_scales=4", "high_level_scales must be a whole number from 1 to 3"),
        ("rt-detr:form=fused", "unknown form 'fused'"),
    ],
)
def test_bad_options_are_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_model(text)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", [f"{host}:encoder={e}" for host in HOSTS for e in ("own", "pro-scale")])
def test_a_models_text_reads_back(text: str) -> None:
    spec = parse_model(text)
    assert parse_model(spec.text) == spec
    assert spec.encoder_title.startswith(SYSTEMS[spec.encoder].title)


@pytest.mark.parametrize(
    "text",
    [
        "dino@r50:encoder=rt-m2f",
        "dino@r50:encoder=pro-scale:stages=1,0,0,1",
        "maskdino@r50:encoder=rt-m2f",
        "maskdino@r50:encoder=m2f:layers=1",
        "maskdino@r50:encoder=pro-scale:stages=0,0,1:task=instance",
        "rt-detr@r50vd:encoder=lite-m2f:high_level_layers=1",
    ],
)
def test_hosted_encoders_run_forward(text: str) -> None:
    model = real_model(parse_model(f"{text}:num_queries=20", num_classes=5))
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 64, 96), (50, 90), (100, 180))
    if hasattr(output, "masks"):
        assert output.masks.shape == (2, 20, 100, 180)
        assert (output.semantic is None) == ("instance" in text)
    else:
        assert output.boxes.shape == (2, 100, 4)
        assert output.scores.diff(dim=1).le(0).all()
        assert output.labels.min() >= 0 and output.labels.max() < 5


def test_fewer_tokens_than_queries_are_told() -> None:
    model = real_model(parse_model("rt-detr@r50vd:num_queries=300", num_classes=5))
    with pytest.raises(ValueError, match="the image has 84 tokens, fewer than the 300 queries"):
        model(torch.zeros(1, 3, 64, 64))


def sampled(layer: torch.nn.Module, queries: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """A layer's output and its gradients, over four levels, around boxes."""
    torch.manual_seed(0)
    maps = [torch.zeros(1, 1, side, 2 * side) for side in (12, 6, 3, 2)]
    levels = Levels.of(maps)
    tokens = torch.randn(2, sum(levels.tokens_per_level), 64)
    query, boxes = torch.randn(2, queries, 64), torch.rand(2, queries, 4)
    layer = layer.to(dtype)
    inputs = [each.to(dtype).requires_grad_() for each in (query, tokens)]
    output = layer(inputs[0], boxes, inputs[1], levels)
    grads = torch.autograd.grad(
        output.float().square().sum(), [*inputs, *layer.parameters()], allow_unused=True
    )
    return output.detach(), [g for g in grads if g is not None]


@pytest.mark.parametrize("queries", [300, 900])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_boxes_over_four_levels_through_the_compiled_op(queries: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = MSDeformAttn(64, levels=4)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.05)
    exact, _ = sampled(layer, queries, torch.float32)
    assert implementation_for("cpu", dtype).name == "cpu-kernel"
    ours, grads = sampled(layer, queries, dtype)
    with use_implementation("reference"):
        theirs, expected = sampled(layer, queries, dtype)
    assert ours.dtype is dtype
    # From the same rounded projections: what is left is the rounding of sums, in the dtype.
    bound = 8 * torch.finfo(dtype).eps
    for grad, reference in zip([ours, *grads], [theirs, *expected], strict=True):
        assert (grad.float() - reference.float()).norm() < bound * reference.float().norm()
    # Half precision keeps 8 or 11 bits; offsets as pixels of a box keep most of them.
    assert (ours.float() - exact).norm() < bound * exact.norm()


@pytest.mark.parametrize("key_aware", [False, True])
def test_box_offsets_are_shares_of_half_a_side(key_aware: bool) -> None:
    """Against the official formula: a place is centre + offset / points * side / 2; by grid_sample."""
    torch.manual_seed(2)
    layer = lite_attention(64, 4, key_aware).double()
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.5)
    levels = Levels.of([torch.zeros(1, 1, side, side + 1) for side in (8, 4, 2, 1)])
    tokens = torch.randn(1, sum(levels.tokens_per_level), 64, dtype=torch.float64)
    query, boxes = torch.randn(1, 5, 64, dtype=torch.float64), torch.rand(1, 5, 4, dtype=torch.float64)
    ours = layer(query, boxes, tokens, levels)
    offsets = layer.sampling_offsets(query).view(1, 5, 8, 4, 4, 2)
    places = boxes[:, :, None, None, None, :2] + offsets / 4 * boxes[:, :, None, None, None, 2:] * 0.5
    value = layer.value_proj(tokens).view(1, -1, 8, 8)
    samples = []
    for level, (part, size) in enumerate(
        zip(value.split(levels.tokens_per_level, dim=1), levels.sizes, strict=True)
    ):
        level_map = part[0].permute(1, 2, 0).reshape(8, 8, *size)
        grid = 2 * places[0, :, :, level].transpose(0, 1) - 1
        samples.append(torch.nn.functional.grid_sample(level_map, grid, align_corners=False))
    keys = torch.cat(samples, dim=-1).permute(0, 2, 3, 1)  # (M, Q, L*P, D)
    if key_aware:
        asked = layer.query_proj(query).view(5, 8, 8).transpose(0, 1)
        logits = torch.einsum("mqd,mqsd->mqs", asked, keys) / 8**0.5
    else:
        logits = layer.attention_weights(query).view(5, 8, 16).transpose(0, 1)
    found = torch.einsum("mqs,mqsd->qmd", logits.softmax(-1), keys).reshape(1, 5, 64)
    torch.testing.assert_close(ours, layer.output_proj(found))

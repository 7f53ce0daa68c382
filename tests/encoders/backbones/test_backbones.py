"""Backbones: shapes, parameters and costs against the official models, and each kind's numerics."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmeter.encoders.backbones.mvit import (
    MVIT_T,
    BlockPlan,
    PooledAttention,
    from_windows,
    relative_positions,
    to_windows,
)
from segmeter.encoders.backbones.swin import SwinBlock
from segmeter.encoders.backbones.table import (
    BACKBONES,
    Backbone,
    FrozenBatchNorm2d,
    build_backbone,
    check_backbone,
    default_num_queries,
)
from tests.helpers.places import ROOT

CHANNELS = {
    "r50": [256, 512, 1024, 2048],
    "r101": [256, 512, 1024, 2048],
    "swin-t": [96, 192, 384, 768],
    "swin-s": [96, 192, 384, 768],
    "swin-b": [128, 256, 512, 1024],
    "swin-l": [192, 384, 768, 1536],
    "mvit-t": [96, 192, 384, 768],
}


def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name).eval()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(backbone: Backbone, *size: int) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        features = backbone(torch.empty(size, device="meta"))
    return {level: tuple(feature.shape) for level, feature in features.items()}


def backbone_gmacs(backbone: Backbone, height: int, width: int) -> float:
    """Multiply-adds of convolutions and matrix products, LayerNorm 5, batch norm 2 an element."""
    norms = 0

    def count(cost: int):
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            nonlocal norms
            norms += cost * output.numel()

        return hook

    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(count(5))
        elif isinstance(module, FrozenBatchNorm2d):
            module.register_forward_hook(count(2))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.empty(1, 3, height, width, device="meta"))
    return (counter.get_total_flops() / 2 + norms) / 1e9


# --- what every backbone promises -----------------------------------------------------------------


def test_table_has_a_row_for_each_short_name() -> None:
    # Those that other systems brought have their channels checked where those systems are.
    assert [name for name in BACKBONES if name in CHANNELS] == list(CHANNELS)
    assert set(BACKBONES) - set(CHANNELS) == {"r50-bn", "r50vd", "convnext-l"}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("batch, height, width", [(2, 64, 96), (1, 32, 32)])
def test_maps_at_strides_4_8_16_32(name: str, batch: int, height: int, width: int) -> None:
    backbone = on_meta(name)
    assert list(backbone.channels.values()) == CHANNELS[name]
    assert shapes(backbone, batch, 3, height, width) == {
        f"res{level}": (batch, channels, height // 2**level, width // 2**level)
        for level, channels in zip((2, 3, 4, 5), CHANNELS[name], strict=True)
    }


@pytest.mark.parametrize("name", ["r50", "swin-t", "mvit-t"])
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval().double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images)
        alone = backbone(images[1:])
    for level, feature in alone.items():
        # Other kernels sum in another order: float64 noise through some 50 layers. A leak between
        # images or a wrong order of windows and batch is of the order of the features themselves.
        torch.testing.assert_close(together[level][1:], feature, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["r50", "swin-t", "mvit-t", "convnext_tiny"])
def test_no_parameter_is_unused(name: str) -> None:
    # A final norm or a classifier left in would count as parameters and get no gradient.
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    sum(feature.square().sum() for feature in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(3, 64, 64), (1, 4, 64, 64)])
def test_wrong_images_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
        on_meta("r50")(torch.empty(size, device="meta"))


@pytest.mark.parametrize("height, width", [(64, 72), (48, 64), (0, 64)])
def test_sides_must_be_multiples_of_32(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 32, got {height}x{width}"):
        on_meta("swin-t")(torch.empty(1, 3, height, width, device="meta"))


def test_only_swin_l_has_200_queries() -> None:
    names = [*CHANNELS, "swin_large_patch4_window12_384"]
    assert [name for name in names if default_num_queries(name) == 200] == ["swin-l"]
    assert {default_num_queries(name) for name in names} == {100, 200}


# --- parameters and costs of the official models --------------------------------------------------

# Parameters of official Mask2Former (Cityscapes, 19 classes) and of its pixel decoder.
OFFICIAL_PARAMETERS = {
    "swin-t": (47405966, 5421504),
    "swin-s": (68723870, 5421504),
    "swin-b": (106888524, 5544384),
    "swin-l": (215506312, 5790144),
    "r50": (43954580, 6035904),
    "r101": (62894484, 6035904),
}


@pytest.mark.parametrize("name", OFFICIAL_PARAMETERS)
def test_parameters_leave_the_same_mask_decoder(name: str) -> None:
    # What the official total leaves beside backbone and pixel decoder is the decoder, 256 wide:
    #   level_embed 3 * 256, query_feat and query_embed 2 * 256 a query:  768 + 512 Q
    #   9 layers of 1,578,752: two attentions (4 * 256 * 256 + 4 * 256), three norms (3 * 512),
    #     FFN (2 * 256 * 2048 + 2048 + 256)
    #   decoder_norm 512, class_embed 257 * 20 = 5,140, mask_embed 3 * 257 * 256 = 197,376
    queries = default_num_queries(name)
    decoder = 768 + 512 * queries + 9 * 1578752 + 512 + 5140 + 197376
    total, encoder = OFFICIAL_PARAMETERS[name]
    assert parameters(on_meta(name)) == total - encoder - decoder


def test_resnet_50_parameters_are_its_convolutions() -> None:
    # The classification network has 25,557,032: less 2048 * 1000 + 1000 of the classifier, and less
    # 2 * 26,560 of the batch norms, which are buffers here.
    assert parameters(on_meta("r50")) == 25557032 - 2049000 - 2 * 26560


@pytest.mark.parametrize(
    "name, gmacs",
    [
        ("swin-t", 195.5546),
        ("swin-s", 381.9956),
        ("swin-b", 706.8826),
        ("swin-l", 1557.1633),
        ("r50", 171.7547),
        ("r101", 327.3382),
    ],
)
def test_cost_at_1024x2048_is_the_official_one(name: str, gmacs: float) -> None:
    # Measured on the official models with fvcore and rounded to 4 decimals.
    assert backbone_gmacs(on_meta(name), 1024, 2048) == pytest.approx(gmacs, abs=6e-5)


@pytest.mark.parametrize("height, width, gmacs", [(1024, 2048, 243.56), (800, 1088, 89.52)])
def test_cost_of_mvit_t_is_detectron2s(height: int, width: int, gmacs: float) -> None:
    # Counted for detectron2's MViTv2-T and rounded to 2 decimals; windows are padded at both sizes.
    assert backbone_gmacs(on_meta("mvit-t"), height, width) == pytest.approx(gmacs, abs=5.1e-3)


def test_cost_of_mvit_t_at_224x224_by_hand() -> None:
    # No window is padded at this size. Patches: 7x7 on 3 channels to 96, 56x56 cells.
    cost = 49 * 3 * 96 * 56 * 56
    for plan in MVIT_T:
        c_in, c, size = plan.in_channels, plan.channels, plan.table_size
        tokens = size**2
        queries, keys = (size // plan.query_stride) ** 2, (size // plan.key_stride) ** 2
        side = (plan.window or size) // plan.key_stride  # of the keys that one query sees
        cost += 5 * tokens * c_in + tokens * c_in * 3 * c  # norm1, qkv
        cost += (9 + 5) * c * (queries + 2 * keys)  # 3x3 depthwise pooling and its norms
        cost += queries * c * (2 * side**2 + 2 * side)  # both products, two relative-position terms
        cost += queries * c * c + 5 * queries * c + 2 * queries * c * 4 * c  # proj, norm2, MLP
        cost += tokens * c_in * c if c_in != c else 0  # the skip path's widening
    cost += sum(5 * c * size**2 for c, size in ((96, 56), (192, 28), (384, 14), (768, 7)))
    assert backbone_gmacs(on_meta("mvit-t"), 224, 224) == pytest.approx(cost / 1e9, rel=1e-12)


def test_cost_of_the_resnet_stem_by_hand() -> None:
    # 7x7 on 3 channels to 64, stride 2: 32x32 cells of a 64x64 image, two operations a MAC.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta("r50").trunk.conv1(torch.empty(1, 3, 64, 64, device="meta"))
    assert counter.get_total_flops() == 2 * 49 * 3 * 64 * 32 * 32


# --- frozen batch norm ----------------------------------------------------------------------------


def test_frozen_batch_norm_is_its_formula() -> None:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(5).double().train()
    for buffer in (norm.weight, norm.bias, norm.running_mean):
        buffer.normal_()
    norm.running_var.uniform_(0.1, 2.0)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    by_channel = (slice(None), None, None)
    expected = (x - norm.running_mean[by_channel]) / (norm.running_var[by_channel] + 1e-5).sqrt()
    expected = expected * norm.weight[by_channel] + norm.bias[by_channel]
    mean = norm.running_mean.clone()
    # float64 rounding of a few operations
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=0)
    assert parameters(norm) == 0


def test_resnet_has_frozen_norms_only() -> None:
    norms = [type(m) for m in on_meta("r50").modules() if "Norm" in type(m).__name__]
    assert len(norms) == 53  # stem, 16 blocks of 3, 4 shortcuts
    assert set(norms) == {FrozenBatchNorm2d}


# --- Swin -----------------------------------------------------------------------------------------


def swin_block(index: int) -> SwinBlock:
    """A block of Swin-T's first stage in float64 (window 7; block 1 shifts by 3)."""
    torch.manual_seed(index)
    block = build_backbone("swin-t").trunk.layers_0.blocks[index].eval().double()
    with torch.no_grad():
        for parameter in block.parameters():  # the bias table and biases must matter
            parameter.normal_(std=0.2)
    return block


def plain_swin_attention(block: SwinBlock, x: Tensor, shift: int) -> Tensor:
    """Norm, then zero-pad, then shift: cell by cell, from the text of the paper. x is (H, W, C)."""
    size, heads = 7, 3
    height, width, channels = x.shape
    full_height, full_width = math.ceil(height / size) * size, math.ceil(width / size) * size
    padded = torch.zeros(full_height, full_width, channels, dtype=x.dtype)
    padded[:height, :width] = F.layer_norm(x, (channels,), block.norm1.weight, block.norm1.bias)

    def region(at: int, full: int) -> int:
        """Which of three bands a shifted coordinate is in: those that wrapped around are apart."""
        return (at >= full - size) + (at >= full - shift) if shift else 0

    result = torch.zeros_like(padded)
    for top in range(0, full_height, size):
        for left in range(0, full_width, size):
            cells = [(top + i, left + j) for i in range(size) for j in range(size)]
            sources = [((y + shift) % full_height, (x_ + shift) % full_width) for y, x_ in cells]
            tokens = torch.stack([padded[source] for source in sources])
            qkv = F.linear(tokens, block.attn.qkv.weight, block.attn.qkv.bias)
            q, k, v = qkv.view(size * size, 3, heads, -1).permute(1, 2, 0, 3)
            logits = q @ k.transpose(1, 2) / math.sqrt(channels / heads)
            for a, (ya, xa) in enumerate(cells):
                for b, (yb, xb) in enumerate(cells):
                    row = (ya - yb + size - 1) * (2 * size - 1) + xa - xb + size - 1
                    logits[:, a, b] += block.attn.relative_position_bias_table[row]
                    if (region(ya, full_height), region(xa, full_width)) != (
                        region(yb, full_height),
                        region(xb, full_width),
                    ):
                        logits[:, a, b] -= 100
            out = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
            out = F.linear(out, block.attn.proj.weight, block.attn.proj.bias)
            for source, value in zip(sources, out, strict=True):
                result[source] = value
    return result[:height, :width]


@pytest.mark.parametrize("height, width", [(9, 11), (3, 5), (7, 14)])
@pytest.mark.parametrize("index, shift", [(0, 0), (1, 3)])
def test_swin_block_pads_then_shifts(index: int, shift: int, height: int, width: int) -> None:
    block = swin_block(index)
    x = torch.randn(2, height, width, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = x + torch.stack([plain_swin_attention(block, image, shift) for image in x])
        expected = expected + block.mlp(block.norm2(expected))
        actual = block(x)
    # float64 rounding: the logits reach tens and the MLP some hundreds.
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_timm_shifts_first() -> None:
    # So the test above can tell the two orders apart: on a 9x11 map they differ far beyond noise.
    block = swin_block(1)
    timms = SwinTransformerBlock(
        96, (9, 11), 3, shift_size=3, always_partition=True, dynamic_mask=True
    ).double()
    timms.load_state_dict(block.state_dict())
    x = torch.randn(1, 9, 11, 96, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = block(x), timms.eval()(x)
    assert (ours - theirs).abs().max() > 0.01


def test_swin_output_norms_leave_the_stream_alone() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("swin-t").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(image)
        backbone.norms["res2"].weight.mul_(2)
        after = backbone(image)
    torch.testing.assert_close(after["res2"], 2 * before["res2"], rtol=0, atol=0)
    for level in ("res3", "res4", "res5"):
        torch.testing.assert_close(after[level], before[level], rtol=0, atol=0)


# --- MViT -----------------------------------------------------------------------------------------


def test_mvit_table_follows_detectron2s_rule() -> None:
    # Width, heads and key stride change after a stage's last block, window and table one block
    # later; the last blocks of stages 2 and 3 pool keys twice as much; those of 2 to 4 are global.
    last = (0, 2, 7, 9)
    width, out, heads, key_stride, window, size = 96, 96, 1, 4, 56, 56
    plans = []
    for index in range(10):
        doubled = 2 if index in last[1:3] else 1
        reach = None if index in last[1:] else window
        stride = 2 if index - 1 in last else 1
        plans.append(BlockPlan(width, out, heads, stride, key_stride * doubled, reach, size))
        width = out
        if index in last:
            out, heads, key_stride = 2 * out, 2 * heads, max(key_stride // 2, 1)
        if index - 1 in last:
            window, size = window // 2, size // 2
    assert tuple(plans) == MVIT_T


def test_windows_come_back_without_padding() -> None:
    x = torch.arange(2 * 5 * 8 * 3.0).view(2, 5, 8, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (8, 4, 4, 3)  # 2 x 2 windows an image
    torch.testing.assert_close(windows[1], x[0, :4, 4:], rtol=0, atol=0)
    torch.testing.assert_close(windows[6, 0], x[1, 4, :4], rtol=0, atol=0)
    assert not windows[6, 1:].any()
    torch.testing.assert_close(from_windows(windows, 5, 8), x, rtol=0, atol=0)


@pytest.mark.parametrize("queries, keys", [(4, 4), (2, 4), (4, 2), (3, 1)])
def test_relative_positions_index_the_stretched_distance(queries: int, keys: int) -> None:
    distances = 2 * max(queries, keys) - 1
    table = torch.arange(float(distances))[:, None]
    q_step, k_step = max(keys // queries, 1), max(queries // keys, 1)
    expected = [[q * q_step + (keys - 1 - k) * k_step for k in range(keys)] for q in range(queries)]
    assert relative_positions(table, queries, keys)[..., 0].tolist() == expected


def test_relative_positions_interpolate_another_size() -> None:
    # From 3 to 7 rows, half-pixel linear: row i reads at (i + 0.5) * 3 / 7 - 0.5, within [0, 2].
    row = relative_positions(torch.tensor([[0.0], [1.0], [2.0]]), 4, 4)[3, :, 0]  # distances 6 .. 3
    expected = [min((i + 0.5) * 3 / 7 - 0.5, 2.0) for i in (6, 5, 4, 3)]
    torch.testing.assert_close(row, torch.tensor(expected), rtol=0, atol=1e-6)  # float32 rounding


def test_pooled_attention_by_hand() -> None:
    # 2 heads of 4 channels, queries pooled by 2, global, on a 4x4 map.
    torch.manual_seed(0)
    attention = PooledAttention(BlockPlan(6, 8, 2, 2, 1, None, 4)).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
        x = torch.randn(1, 4, 4, 6, dtype=torch.float64)
        actual = attention(x)

        def pooled(part: int, head: int, pool: nn.Conv2d, norm: nn.LayerNorm) -> Tensor:
            rows = slice(8 * part + 4 * head, 8 * part + 4 * head + 4)
            projected = x[0] @ attention.qkv.weight[rows].t() + attention.qkv.bias[rows]
            maps = F.conv2d(projected.permute(2, 0, 1), pool.weight, None, pool.stride, 1, 1, 4)
            return F.layer_norm(maps.permute(1, 2, 0), (4,), norm.weight, norm.bias, 1e-6)

        outputs = torch.zeros(2, 2, 8, dtype=torch.float64)
        for head in range(2):
            q = pooled(0, head, attention.pool_q, attention.norm_q)
            k = pooled(1, head, attention.pool_k, attention.norm_k)
            v = pooled(2, head, attention.pool_v, attention.norm_v)
            for qy, qx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                query, logits = q[qy, qx], torch.zeros(4, 4, dtype=torch.float64)
                for ky in range(4):
                    for kx in range(4):
                        logits[ky, kx] = query @ k[ky, kx] / 2  # sqrt(4)
                        logits[ky, kx] += query @ attention.rel_pos_h[2 * qy - ky + 3]
                        logits[ky, kx] += query @ attention.rel_pos_w[2 * qx - kx + 3]
                weights = logits.flatten().softmax(0)
                attended = weights @ v.flatten(0, 1) + query  # residual pooling
                outputs[qy, qx, 4 * head : 4 * head + 4] = attended
        expected = outputs @ attention.proj.weight.t() + attention.proj.bias
    # float64 rounding on values of order 10
    torch.testing.assert_close(actual[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window, reaches", [(8, False), (None, True)])
def test_windowed_attention_stays_in_its_window(window: int | None, reaches: bool) -> None:
    torch.manual_seed(0)
    attention = PooledAttention(BlockPlan(8, 8, 1, 1, 4, window, 16))
    x = torch.randn(1, 16, 8, 8)
    changed = x.clone()
    changed[:, 12:] += 1  # beyond the reach of the 3x3 pooling into rows 0 to 7
    with torch.no_grad():
        difference = (attention(x) - attention(changed))[:, :8].abs().max()
    assert bool(difference > 0) is reaches


# --- names and timm models ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, advice",
    [
        ("swin_t", "did you mean 'swin-t'"),
        ("R50", "did you mean 'r50'"),
        ("convnext_tinny", "did you mean 'convnext_tiny'"),
        ("resnet50.a1_in1k", "did you mean 'resnet50'"),
        ("???", "choose from r50, r50-bn, r50vd, r101, swin-t, swin-s, swin-b, swin-l, convnext-l, mvit-t"),
    ],
)
def test_unknown_name_is_told_the_nearest(name: str, advice: str) -> None:
    with pytest.raises(ValueError) as error:
        build_backbone(name)
    assert f"unknown backbone {name!r}; {advice}" in str(error.value)
    assert "\n" not in str(error.value)


def test_short_names_are_checked_without_timm() -> None:
    script = (
        "import sys; from segmeter.encoders.backbones.table import BACKBONES, check_backbone\n"
        "for name in BACKBONES: check_backbone(name)\n"
        "sys.exit('timm' in sys.modules)"
    )
    root = ROOT
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == 0


def test_timm_names_pass_the_check() -> None:
    check_backbone("convnext_tiny")


@pytest.mark.parametrize(
    "name, channels",
    [
        ("convnext_tiny", (96, 192, 384, 768)),
        ("tf_efficientnet_lite0", (24, 40, 112, 320)),  # has a map at stride 2 too
        ("swin_tiny_patch4_window7_224", (96, 192, 384, 768)),  # NHWC, and strict about 224x224
        ("mvitv2_tiny", (96, 192, 384, 768)),
    ],
)
def test_timm_models_with_strides_4_to_32(name: str, channels: tuple[int, ...]) -> None:
    expected = {
        f"res{level}": (2, width, 64 // 2**level, 96 // 2**level)
        for level, width in zip((2, 3, 4, 5), channels, strict=True)
    }
    assert shapes(on_meta(name), 2, 3, 64, 96) == expected


@pytest.mark.parametrize(
    "name, reason",
    [
        ("vit_small_patch16_224", "has feature maps at strides 16; needed: 4, 8, 16 and 32"),
        ("levit_128", "has feature maps at strides 16, 32, 64; needed: 4, 8, 16 and 32"),
        # Unpadded convolutions: 96 -> 47 -> 45 -> 22 -> 20.
        ("inception_v3", r"its res2 is \(1, 192, 20, 36\), expected \(1, 192, 24, 40\)"),
        ("hiera_tiny_224", "cannot take an image of 96x160; any multiple of 32 is needed"),
    ],
)
def test_timm_models_that_do_not_fit_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_backbone(name)


def test_timm_mvit_is_another_network_than_mvit_t() -> None:
    # Same widths and depths, no windows: at 800x1088 this more than doubles the cost.
    ours, timms = (backbone_gmacs(on_meta(n), 800, 1088) for n in ("mvit-t", "mvitv2_tiny"))
    assert timms > 2 * ours

"""The masked decoder. Its agreement with the official module is in test_full_model.py."""

import pytest
import torch
from torch import Tensor

from segmeter.encoders.segmenter.decoder import AttentionMask, DecoderOutput, MaskedDecoder


def small_decoder(layers: int = 3) -> MaskedDecoder:
    torch.manual_seed(0)
    # float64, so that rounding cannot carry a mask logit across the threshold.
    decoder = MaskedDecoder(
        num_classes=4, num_queries=5, layers=layers, hidden_dim=32, heads=4, ffn_dim=48, mask_dim=16
    )
    return decoder.double().eval()


def small_maps(batch: int = 1, seed: int = 1) -> tuple[list[Tensor], Tensor]:
    """Maps of a 64x96 image at strides 32, 16, 8, and mask features at stride 4."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    multi_scale = [draw(batch, 32, 64 // s, 96 // s) for s in (32, 16, 8)]
    return multi_scale, draw(batch, 16, 16, 24)


def decode(decoder: MaskedDecoder, multi_scale: list[Tensor], features: Tensor) -> DecoderOutput:
    with torch.no_grad():
        return decoder(multi_scale, features)


def set_mask_logits(decoder: MaskedDecoder, value: float) -> None:
    """Make every query's mask logit the sum of the mask features times ``value``."""
    last = decoder.mask_embed.layers[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)


def test_parameters_follow_the_closed_form():
    with torch.device("meta"):
        decoder = MaskedDecoder(num_classes=19)
    attention = 4 * 256 * 256 + 4 * 256  # q, k, v and output projection: 263,168
    ffn = 256 * 2048 + 2048 + 2048 * 256 + 256  # 1,050,880
    layer = 2 * attention + ffn + 3 * 2 * 256  # three LayerNorms: 1,578,752
    embeddings = (100 + 100 + 3) * 256  # query content, query position, level: 51,968
    heads = 2 * 256 + 257 * 20 + 3 * 257 * 256  # norm, 19 classes + 1, mask embedding: 203,028
    assert sum(p.numel() for p in decoder.parameters()) == 9 * layer + embeddings + heads
    assert 9 * layer + embeddings + heads == 14_463_764


def test_state_dict_has_the_official_names():
    attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    norm = ("norm.weight", "norm.bias")
    parts = {
        "self_attention": [f"self_attn.{name}" for name in attention],
        "cross_attention": [f"multihead_attn.{name}" for name in attention],
        "ffn": [f"linear{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")],
    }
    expected = {
        f"transformer_{part}_layers.{i}.{name}"
        for part, names in parts.items()
        for name in (*names, *norm)
        for i in range(2)
    }
    expected |= {
        "decoder_norm.weight",
        "decoder_norm.bias",
        "class_embed.weight",
        "class_embed.bias",
    }
    expected |= {f"{name}_embed.weight" for name in ("query", "level")} | {"query_feat.weight"}
    expected |= {f"mask_embed.layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert set(small_decoder(layers=2).state_dict()) == expected


@pytest.mark.parametrize("mask_stride", [4, 8])
def test_shapes_on_meta_at_any_batch_and_mask_stride(mask_stride):
    with torch.device("meta"):
        decoder = MaskedDecoder(num_classes=133, num_queries=200)
        multi_scale = [torch.empty(3, 256, 96 // s, 160 // s) for s in (32, 16, 8)]
        features = torch.empty(3, 256, 96 // mask_stride, 160 // mask_stride)
        output = decoder(multi_scale, features)
    assert output.class_logits.shape == (3, 200, 134)
    assert output.mask_logits.shape == (3, 200, 96 // mask_stride, 160 // mask_stride)


def test_images_of_a_batch_do_not_see_each_other():
    decoder = small_decoder()
    first, second = small_maps(seed=1), small_maps(seed=2)
    both = [torch.cat(pair) for pair in zip(first[0], second[0], strict=True)]
    batched = decode(decoder, both, torch.cat((first[1], second[1])))
    for index, (multi_scale, features) in enumerate((first, second)):
        alone = decode(decoder, multi_scale, features)
        # float64 sums of a few hundred terms, in another order: 1e-12 is ample.
        for name in ("class_logits", "mask_logits"):
            torch.testing.assert_close(
                getattr(batched, name)[index], getattr(alone, name)[0], rtol=0, atol=1e-12
            )


def test_mask_opens_tokens_of_non_negative_logit():
    logits = torch.tensor([[[[-1.0, 0.0], [2.0, -0.5]]]])
    visible = AttentionMask()(logits, (2, 2))
    assert visible.tolist() == [[[[False, True, True, False]]]]


def test_mask_is_thresholded_after_resizing():
    # Halving averages 2x2 logits: one strong pixel outweighs three weak ones. The second token is
    # open to both queries, so that no row is blocked fully.
    logits = torch.tensor([[[[9.0, -1.0], [-1.0, -1.0]], [[-9.0, 1.0], [1.0, 1.0]]]])
    with_open_token = torch.cat((logits, torch.ones(1, 2, 2, 2)), dim=-1)
    visible = AttentionMask()(with_open_token, (1, 2))
    assert visible.tolist() == [[[[True, True], [False, True]]]]


def test_fully_blocked_row_is_opened_and_only_that_row():
    logits = torch.tensor([[[[-1.0, -2.0]], [[-1.0, 3.0]]]])
    visible = AttentionMask()(logits, (1, 2))
    assert visible.tolist() == [[[[True, True], [False, True]]]]


def test_queries_blocked_everywhere_decode_as_if_unmasked():
    multi_scale, features = small_maps()
    classes = []
    # 16 channels of ones: every mask logit is +16 (nothing blocked) or -16 (all blocked).
    for value in (1.0, -1.0):
        decoder = small_decoder()
        set_mask_logits(decoder, value)
        output = decode(decoder, multi_scale, torch.ones_like(features))
        assert (output.mask_logits == 16 * value).all()
        classes.append(output.class_logits)
    assert torch.equal(*classes)


def test_blocked_tokens_have_no_influence():
    decoder = small_decoder(layers=1)
    set_mask_logits(decoder, 1.0)
    multi_scale, features = small_maps()
    features = torch.ones_like(features)
    features[..., :8] = -1.0  # the left third: column 0 of 3 at stride 32
    reference = decode(decoder, multi_scale, features)

    def change_column(column: int) -> DecoderOutput:
        changed = multi_scale[0].clone()
        changed[..., column] += 1.0
        return decode(decoder, [changed, *multi_scale[1:]], features)

    assert torch.equal(change_column(0).class_logits, reference.class_logits)
    assert not torch.allclose(change_column(1).class_logits, reference.class_logits)


@pytest.mark.parametrize("layers, read", [(1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (4, {0, 1, 2})])
def test_layers_read_the_levels_from_low_to_high_resolution(layers, read):
    decoder = small_decoder(layers)
    multi_scale, features = small_maps()
    reference = decode(decoder, multi_scale, features).class_logits
    change = torch.linspace(-1, 1, 32, dtype=torch.float64)[:, None, None]
    for level in range(3):
        changed = list(multi_scale)
        changed[level] = changed[level] + change
        moved = not torch.equal(decode(decoder, changed, features).class_logits, reference)
        assert moved == (level in read)


def test_masks_are_predicted_before_and_after_each_layer_but_classes_once():
    decoder = small_decoder(layers=3)
    calls = []
    for name in ("mask_product", "attention_mask", "class_embed"):
        getattr(decoder, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    decode(decoder, *small_maps())
    counts = {name: calls.count(name) for name in ("mask_product", "attention_mask", "class_embed")}
    assert counts == {"mask_product": 4, "attention_mask": 3, "class_embed": 1}


def test_prediction_is_the_dot_product_of_mask_embedding_and_pixel_embedding():
    decoder = small_decoder()
    multi_scale, features = small_maps()
    embeddings = []
    decoder.mask_embed.register_forward_hook(lambda module, args, out: embeddings.append(out))
    output = decode(decoder, multi_scale, features)
    expected = embeddings[-1][0] @ features[0].flatten(1)
    torch.testing.assert_close(output.mask_logits[0].flatten(1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"num_queries": 0}, "num_queries must be a whole number of at least 1, got 0"),
        ({"num_classes": 1.5}, "num_classes must be a whole number of at least 1, got 1.5"),
        ({"layers": -1}, "layers must be a whole number of at least 1, got -1"),
        ({"hidden_dim": 36}, r"hidden_dim must be a multiple of heads \(8\) and of 4, got 36"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedDecoder(**{"num_classes": 19, **options})


def test_maps_that_do_not_fit_are_refused():
    decoder = small_decoder()
    multi_scale, features = small_maps()
    with pytest.raises(ValueError, match="multi_scale must be 3 maps, got 2"):
        decoder(multi_scale[:2], features)
    with pytest.raises(ValueError, match=r"mask_features must be \(1, 16, H, W\)"):
        decoder(multi_scale, multi_scale[2])
    with pytest.raises(ValueError, match=r"multi_scale\[0\] must be \(2, 32, H, W\)"):
        decoder(multi_scale, torch.cat((features, features)))

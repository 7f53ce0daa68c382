"""Reducers and their models against the outputs of the official code; tolerances are the data's own."""

import numpy as np
import pytest
import torch

from segmeter.encoders.backbones.mit import EfficientAttention
from segmeter.encoders.reduction.algm import Algm, adaptive_threshold, match_even
from segmeter.encoders.reduction.cts import Cts
from segmeter.encoders.reduction.grid import BipartiteMerging, build_merging
from segmeter.encoders.reduction.interface import TokenSet, first_rows, take_rows
from segmeter.encoders.reduction.modes import MODES, GridMode
from segmeter.encoders.reduction.superpatches import embed_superpatches
from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import real_model
from tests.helpers.reduction_recipe import fill, images, parity

DESCRIBED, ARRAYS = parity()
FUNCTION, ATTENTION, MODEL = 1e-5, 1e-5, 5e-5


def stored(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


def apart(ours: torch.Tensor, name: str) -> float:
    return (ours - stored(name)).abs().max().item()


@pytest.mark.parametrize("case", range(len(DESCRIBED["algm_local"])))
def test_local_stage_of_algm(case: int) -> None:
    described = DESCRIBED["algm_local"][case]
    x = stored(f"algm_local/{case}/tokens")
    high, wide = described["grid"]
    reducer = Algm((1, 5), tuple(described["window"]), described["threshold"])
    tokens = TokenSet(x, first_rows(len(x), high * wide, x.device), (high, wide), 1)
    merged, index = reducer(tokens)
    assert merged.shape[1] == described["tokens_after"]
    assert apart(merged, f"algm_local/{case}/merged") < FUNCTION
    assert np.array_equal(index, ARRAYS[f"algm_local/{case}/assign"])
    rows = index.gather(1, tokens.rows)
    sizes = TokenSet(merged, rows, (high, wide), 1).sizes
    assert apart(sizes[..., None], f"algm_local/{case}/size") == 0


@pytest.mark.parametrize("case", range(len(DESCRIBED["algm_global"])))
def test_global_stage_of_algm(case: int) -> None:
    described = DESCRIBED["algm_global"][case]
    x, assign = stored(f"algm_global/{case}/tokens"), stored(f"algm_global/{case}/assign_in").long()
    side = int((assign.shape[1] - 1) ** 0.5)
    reducer = Algm((1, 5), (2, 2), 0.9)
    tokens = TokenSet(x, assign[:, 1:], (side, side), described["layer"])
    assert apart(tokens.sizes[..., None], f"algm_global/{case}/size_in") == 0
    merged, index = reducer.everywhere(tokens)
    assert merged.shape[1] == described["tokens_after"]
    assert apart(merged, f"algm_global/{case}/merged") < FUNCTION
    assert np.array_equal(index.gather(1, tokens.rows) - 1, ARRAYS[f"algm_global/{case}/assign_patches"])
    best, _ = match_even(reducer.matching[1], x)
    # The population's deviation in place of the unbiased one shows here alone.
    assert abs(adaptive_threshold(best, described["layer"]).item() - described["threshold"]) < 1e-6


@pytest.mark.parametrize("case", range(len(DESCRIBED["segmenter"])))
def test_segmenter_and_algm(case: int) -> None:
    described = DESCRIBED["segmenter"][case]
    text = "segmenter@vit-ti:num_classes=19:train_size=192"
    if merging := described["merging"]:
        layers = ",".join(map(str, merging["selected_layers"]))
        text += f":reduction=algm:layers={layers}:threshold={merging['threshold']}"
    model = real_model(parse_model(text))
    unused = {"encoder.head.weight", "encoder.head.bias"}
    assert set(model.state_dict()) == set(DESCRIBED["segmenter_state"]) - unused
    fill(model)
    with torch.no_grad():
        tokens = model.encoder(images(described["photos"], 192))
        masks = model.decoder(tokens)
    assert tokens.x.shape[1] == described["tokens"]["entering_decoder"]
    assert apart(masks, f"segmenter/{case}/masks") < MODEL
    if merging:
        assert np.array_equal(tokens.rows, ARRAYS[f"segmenter/{case}/rows"])


@pytest.mark.parametrize("case", range(len(DESCRIBED["bsm"])))
def test_bipartite_matching_of_segformer(case: int) -> None:
    described = DESCRIBED["bsm"][case]
    x = stored(f"bsm/{case}/tokens")
    reducer = BipartiteMerging(described["rate"], (described["stride"],) * 2)
    grid = (described["height"], described["width"])
    merged, index = reducer(TokenSet(x, first_rows(len(x), x.shape[1], x.device) - 1, grid, 1, protected=0))
    assert merged.shape[1] == described["tokens_after"]
    assert apart(take_rows(merged, index), f"bsm/{case}/unmerged") < FUNCTION


@pytest.mark.parametrize("case", range(len(DESCRIBED["attention"]["cases"])))
def test_attention_in_each_mode(case: int) -> None:
    described = DESCRIBED["attention"]["cases"][case]
    config = described["tome_cfg"]

    def merging(what: str) -> torch.nn.Module | None:
        mode = config.get(f"{what}_mode", "none")
        stride = config.get(f"{what}_s", (config.get(f"{what}_sy", 1), config.get(f"{what}_sx", 1)))
        sides = (stride, stride) if isinstance(stride, int) else tuple(stride)
        return build_merging(GridMode(mode if mode in MODES else "none", config.get(f"{what}_r", 0.0), sides))

    attention = EfficientAttention(32, 2, described["sr_ratio"], merging("q"), merging("kv")).eval()
    fill(attention, factor=10)
    with torch.no_grad():
        out = stored("attention/identity") + attention(
            stored("attention/x"), tuple(DESCRIBED["attention"]["hw"])
        )
    assert apart(out[:, ::3], f"attention/{case}/out") < ATTENTION


@pytest.mark.parametrize(("case", "merging"), list(enumerate(["none", "hq", "fast", "2x2"])))
def test_segformer_and_its_merging(case: int, merging: str) -> None:
    model = real_model(parse_model(f"segformer@mit-b0:num_classes=19:head=mmseg:merging={merging}"))
    assert set(model.state_dict()) == set(DESCRIBED["segformer_state"])
    fill(model, factor=5)
    with torch.no_grad():
        out = model.decode_head(model.backbone(images(["flower"], 128)))
    assert apart(out[:, :, 1::2, ::2], f"segformer/{case}/out") < MODEL


class PixelSums(torch.nn.Module):
    """Stands for the patch embedding: the sum of a patch's pixels."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patches.flatten(2).sum(2, keepdim=True)


@pytest.mark.parametrize("case", range(len(DESCRIBED["cts"])))
def test_superpatches_of_cts(case: int) -> None:
    described = DESCRIBED["cts"][case]
    shape = (described["batch"], 3, described["height"], described["width"])
    images = torch.from_numpy(np.random.default_rng(case + 1).standard_normal(shape).astype(np.float32))
    reducer = Cts(described["superpatches_shared"])
    shared = reducer.choose(stored(f"cts/{case}/policy_logits"))
    assert np.array_equal(shared, ARRAYS[f"cts/{case}/shared"])
    positions = torch.zeros(1, described["height"] // 16, described["width"] // 16, 1)
    x, rows = embed_superpatches(
        images, PixelSums(), positions, [(2, shared)], [described["superpatches_shared"]]
    )
    assert x.shape[1] == described["tokens"]
    # Sums of 768 pixels, an order of magnitude above the functions' values.
    assert apart(x[..., 0], f"cts/{case}/patch_sum") < 1e-4
    restored = take_rows(stored(f"cts/{case}/rows")[:, :, 0].transpose(1, 2), rows - 1)
    expected = stored(f"cts/{case}/restored").flatten(2).transpose(1, 2)
    assert (restored - expected).abs().max() < FUNCTION

"""The pass over images: what it keeps, what it skips, and what it says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segmeter.encoders.backbones.table import build_backbone
from segmeter.harness.counting.count import count_model
from segmeter.harness.inputs.photos import Photo, choose_photos, package_photos
from segmeter.harness.inputs.sizes import ImageSize, ResizeRule
from segmeter.harness.machine.memory import peak_memory
from segmeter.harness.models.spec import model_spec
from segmeter.harness.records.files import to_json
from segmeter.harness.tokens.maps import Settings, Tally, analyse, analysis_bytes
from segmeter.harness.tokens.merge_cost import encoder_cost, matching_gmacs
from segmeter.harness.tokens.run import chosen_places, run_tokens
from segmeter.harness.weights.network import Network, Weights, load_network, package_file

SMALL = ResizeRule(short=96, long=160)
SETTINGS = Settings(max_distance=8, max_radius=4, sample=64)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("mobilenetv3_small_050", None, None, allow_random=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (60, 50), (30, 70), (48, 64)]):
        small = generator.integers(0, 255, (height // 5, width // 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{number}.png")
    return choose_photos([folder], 10, seed=0)[0]


def numbers_of(value: object, at: str = "") -> dict[str, float]:
    """Every similarity in a record, by its place."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in numbers_of(part, f"{at}/{key}").items()}
    if isinstance(value, list):
        return {
            k: v for index, part in enumerate(value) for k, v in numbers_of(part, f"{at}/{index}").items()
        }
    return {at: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def assert_same(first: object, second: object) -> None:
    one, two = numbers_of(first), numbers_of(second)
    assert one.keys() == two.keys() and len(one) > 400
    for key in one:
        assert one[key] == pytest.approx(two[key], abs=1e-6), key


def test_order_of_images_changes_nothing(network: Network, photos: list[Photo]) -> None:
    forward = run_tokens(network, photos, SETTINGS, rule=SMALL)
    backward = run_tokens(network, photos[::-1], SETTINGS, rule=SMALL)
    assert_same(forward["places"], backward["places"])


def test_threads_change_nothing(network: Network, photos: list[Photo]) -> None:
    before = torch.get_num_threads()
    records = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            records.append(run_tokens(network, photos[:1], SETTINGS, rule=SMALL)["places"])
    finally:
        torch.set_num_threads(before)
    # The networks' own features move by some 1e-7 of their size with the number of threads.
    assert_same(*records)


def test_the_record_is_json_and_says_what_it_is_of(network: Network, photos: list[Photo]) -> None:
    record = run_tokens(network, photos, SETTINGS, rule=SMALL, skipped=["cannot read photo x.png: cut"])
    assert to_json(record)
    assert record["schema"] == "segmeter.tokens/1"
    assert (
        record["weights"]["backbone"]["random"] and "random (seed 0)" in record["weights"]["backbone"]["text"]
    )
    assert [image["name"] for image in record["images"]] == [photo.name for photo in photos]
    assert record["skipped"] == ["cannot read photo x.png: cut"]
    assert not record["interrupted"]
    assert record["memory"]["analysis_bound_bytes"] > 0
    scales = record["places"][0]["scales"]
    assert list(scales) == ["s1", "s2", "s3", "s4"]
    # 48x64 by the rule is 96x128: 24x32 tokens at stride 4. Means over images of three sizes.
    sizes = [SMALL.apply(photo.size) for photo in photos]
    for scale in scales.values():
        stride = scale["stride"]
        expected = np.mean([math.ceil(h / stride) * math.ceil(w / stride) for h, w in sizes])
        assert scale["tokens"] == pytest.approx(expected)


def test_one_image_is_the_analysis_of_its_map(network: Network, photos: list[Photo]) -> None:
    record = run_tokens(network, photos[:1], SETTINGS, rule=SMALL)
    from segmeter.harness.inputs.photos import read_photo

    pixels = torch.tensor(read_photo(photos[0], (96, 128)).astype(np.float32)).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
    with torch.inference_mode():
        maps = network.backbone(((pixels - mean) / std)[None])
    found, _ = analyse(maps["res3"][0], SETTINGS)
    s2 = record["places"][0]["scales"]["s2"]
    np.testing.assert_allclose(s2["sequence"]["mean"], found["sequence"], atol=1e-6)
    assert s2["effective_rank"]["mean"] == pytest.approx(float(found["effective_rank"]), rel=1e-5)
    assert s2["sequence"]["std_images"] == [None] * 8


@pytest.mark.skipif(package_file() is None, reason="the weights' package is not installed")
def test_the_papers_ordering_shows_on_the_packaged_photos() -> None:
    record = run_tokens(load_network(None, None, None), package_photos(), Settings())
    assert not record["weights"]["backbone"]["random"]
    for pair in record["ordering"]:
        # s1 > s2 > s3 at every distance, along the sequence and on the map; s4 stands above s3.
        assert pair["above"] == (0 if pair["smaller"] == "s4" else pair["distances"])
    s4 = record["places"][0]["scales"]["s4"]["sequence"]["mean"]
    # 640x427 becomes 1199x800, padded to 1216: rows of 38 tokens. A row's length away lies the token below.
    assert s4[37] > 0.9 > 0.5 > s4[18]


class Flat(nn.Module):
    """A trunk whose maps are one everywhere, but for minus ones in the padding."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stride in (4, 8, 16, 32):
            level = torch.ones(1, 4, images.shape[2] // stride, images.shape[3] // stride)
            level[..., -(-100 // stride) :] = -1
            maps.append(level)
        return maps


def test_tokens_in_the_padding_are_left_out(tmp_path: Path) -> None:
    # 96x100 is padded to 96x128; tokens from column 100 / stride on lie in the padding.
    Image.new("RGB", (100, 96)).save(tmp_path / "a.png")
    backbone = build_backbone("mobilenetv3_small_050")
    backbone.trunk = Flat()
    network = Network(backbone, Weights("random", "seed 0"), None, None, (0.0,) * 3, (1.0,) * 3)
    record = run_tokens(network, choose_photos([tmp_path], 1, 0)[0], SETTINGS, rule=ResizeRule(96, 160))
    assert record["padded_sizes"] == {"96x128": 1}
    for scale in record["places"][0]["scales"].values():
        np.testing.assert_allclose([v for v in scale["sequence"]["mean"] if v is not None], 1.0, atol=1e-6)


def test_an_interrupt_keeps_whole_images(network: Network, photos: list[Photo]) -> None:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == 2:
            raise KeyboardInterrupt

    record = run_tokens(network, photos, SETTINGS, rule=SMALL, step=step)
    assert record["interrupted"] and len(record["images"]) == 2
    assert_same(record["places"], run_tokens(network, photos[:2], SETTINGS, rule=SMALL)["places"])


def test_a_photo_that_vanished_is_skipped(network: Network, photos: list[Photo]) -> None:
    gone = Photo(Path("/nowhere/gone.png"), (48, 64))
    record = run_tokens(network, [gone, photos[0]], SETTINGS, rule=SMALL)
    assert len(record["images"]) == 1 and "gone.png" in record["skipped"][0]
    with pytest.raises(ValueError, match="none of 1 images can be read"):
        run_tokens(network, [gone], SETTINGS, rule=SMALL)


def test_places(photos: list[Photo]) -> None:
    spec = model_spec("pro-scale", stages=(1, 1, 1))
    network = load_network("mobilenetv3_small_050", spec, None, allow_random=True)
    assert chosen_places("backbone", network) == ("backbone",)
    assert chosen_places("layer:2", network) == ("backbone", "layer 2")
    for wrong in ("layer:4", "layer:0", "layer:x"):
        with pytest.raises(ValueError, match=r"no layer:.; its layers: layer:1 to layer:3"):
            chosen_places(wrong, network)
    with pytest.raises(ValueError, match="must be backbone, layer:N or all; got 'decoder'"):
        chosen_places("decoder", network)
    record = run_tokens(network, photos[:1], SETTINGS, at="all", encoder=spec, rule=SMALL)
    names = [place["name"] for place in record["places"]]
    assert names == ["backbone", "layer 1", "layer 2", "layer 3", "output", "pixel embedding"]
    # 96x128: s4 is 3x4 = 12 tokens, s3 6x8 = 48, s2 12x16 = 192.
    assert [place["updated_tokens"] for place in record["places"][1:4]] == [12, 60, 252]
    assert [list(place["scales"]) for place in record["places"][1:4]] == [
        ["s4"],
        ["s3", "s4"],
        ["s2", "s3", "s4"],
    ]
    for place in record["places"][1:4]:
        for scale in place["scales"].values():
            assert -1 <= scale["change"]["mean"] < 1


def test_an_encoder_that_gives_one_map_gives_pixel_embeddings(photos: list[Photo]) -> None:
    spec = model_spec("yoso")
    network = load_network("mobilenetv3_small_050", spec, None, allow_random=True)
    record = run_tokens(network, photos[:1], SETTINGS, at="all", encoder=spec, rule=SMALL)
    assert [place["name"] for place in record["places"]] == ["backbone", "pixel embedding"]
    assert list(record["places"][1]["scales"]) == ["s1"]


def test_a_layer_needs_an_encoder(network: Network) -> None:
    with pytest.raises(ValueError, match="needs an encoder"):
        chosen_places("layer:1", network)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"threshold": 1.2}, "threshold must be a cosine from -1 to 1, such as 0.9; got 1.2"),
        ({"max_distance": 0}, "distance must be from 1"),
        ({"max_radius": -3}, "radius must be from 1"),
        ({"sample": 1}, "sample must be at least 2"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Settings(**settings)  # type: ignore[arg-type]


def test_a_tally_is_the_mean_and_spread_over_images() -> None:
    tally = Tally()
    for value in ([1.0, math.nan], [2.0, 5.0], [6.0, math.nan]):
        tally.add({"x": np.array(value)})
    # Mean of 1, 2, 6 is 3, their sample variance (4 + 1 + 9) / 2 = 7; one image had the second entry.
    np.testing.assert_allclose(tally.mean("x"), [3.0, 5.0])
    assert tally.std("x")[0] == pytest.approx(math.sqrt(7))
    assert math.isnan(tally.std("x")[1])


@pytest.mark.parametrize("name", ["m2f", "pro-scale", "lite-m2f", "rt-m2f"])
def test_the_what_if_starts_at_the_encoders_own_count(name: str) -> None:
    spec = model_spec(name, "r50")
    channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    whole = count_model(spec, ImageSize((256, 512), (256, 512)), "published").figures.of("encoder") / 1e9
    for cost in encoder_cost(spec, channels, (256, 512)):
        if cost.gmacs:
            # To the last counted row: sums of whole numbers, divided once.
            assert cost.gmacs[0] == pytest.approx(whole, rel=1e-12)
            assert list(cost.gmacs) == sorted(cost.gmacs, reverse=True)
            assert cost.saved(0) == 0


def test_what_goes_with_half_of_s2_in_m2f() -> None:
    # Each of 6 layers: value, output and FFN for K tokens are (2 * 256^2 + 2 * 256 * 1024) MACs, offsets and
    # weights 256 * (192 + 96); two norms count 5 per element (2 * 5 * 256). The input projection of 512
    # channels is 512 * 256 and its norm 5 * 256. The upsampling of s2 into s1 does not depend on its size.
    per_token = 6 * (2 * 256**2 + 2 * 256 * 1024 + 256 * 288 + 2 * 5 * 256) + 512 * 256 + 5 * 256
    channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    s2 = encoder_cost(model_spec("m2f", "r50"), channels, (256, 512))[1]
    assert s2.tokens == 32 * 64
    assert s2.saved(0.5) == pytest.approx(s2.tokens / 2 * per_token / 1e9, rel=1e-9)
    # A share between counted ones, and one beyond the last: the cost is linear in tokens.
    assert s2.saved(0.9) == pytest.approx(0.9 / 0.5 * s2.saved(0.5), rel=1e-9)


def test_rt_m2f_can_only_lose_tokens_in_its_attention() -> None:
    channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    s1, s2, s3, s4 = encoder_cost(model_spec("rt-m2f", "r50"), channels, (256, 512))
    assert not s1.gmacs and "does not use" in s1.note
    assert not s2.gmacs and not s3.gmacs and "fit together" in s2.note
    # 128 tokens: projections 4 * 256^2, FFN 2 * 256 * 1024, norms 2 * 5 * 256 per token; scores and values
    # 2 * 256 per pair.
    lost = 64 * (4 * 256**2 + 2 * 256 * 1024 + 2 * 5 * 256) + (128**2 - 64**2) * 2 * 256
    assert s4.saved(0.5) == pytest.approx(lost / 1e9, rel=1e-9)


def test_matching_costs_the_products_it_makes() -> None:
    # 1,000 tokens of 24 channels: 500 x 500 products; or 250 windows of 6 pairs.
    assert matching_gmacs(1000, 24, "bipartite") == pytest.approx(500 * 500 * 24 / 1e9)
    assert matching_gmacs(1000, 24, "windows") == pytest.approx(250 * 6 * 24 / 1e9)


def test_the_stated_memory_holds_for_131072_tokens() -> None:
    # s1 of a 1024x2048 image.
    feature_map = torch.rand(64, 256, 512)
    settings = Settings()
    analyse(feature_map[:, :64, :64], settings)
    found, how = peak_memory(lambda: analyse(feature_map, settings), torch.device("cpu"))
    used = found["peak_rss_over_start_bytes"]
    if used is None:
        pytest.skip(how)
    bound = analysis_bytes((256, 512), 64, settings)
    # The bound is no idle one: within a factor of 4 of what was used.
    assert bound / 4 < used <= bound

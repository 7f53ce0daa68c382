"""What holds of every reducer, whatever the image; and what each refuses."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.encoders.backbones.vit import VITS, VisionTransformer
from segmeter.encoders.reduction.algm import ALGM, Algm
from segmeter.encoders.reduction.grid import BipartiteMerging, CellMeans, RunMeans
from segmeter.encoders.reduction.interface import TokenSet, first_rows, take_rows
from segmeter.encoders.reduction.merging import Gathering, Matching
from segmeter.encoders.reduction.tome import ToMe
from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import real_model


def token_set(
    seed: int, grid: tuple[int, int], batch: int = 2, layer: int = 1, protected: int = 1
) -> TokenSet:
    number = grid[0] * grid[1] + protected
    x = torch.randn((batch, number, 8), generator=torch.Generator().manual_seed(seed))
    rows = first_rows(batch, grid[0] * grid[1], x.device) - 1 + protected
    return TokenSet(x, rows, grid, layer, protected=protected)


REDUCERS = {
    "algm local": lambda: (Algm((1, 5), (2, 2), 0.1), 1),
    "algm global": lambda: (Algm((1, 5), (2, 2), 0.1), 5),
    "tome": lambda: (ToMe(7, (1,), proportional=True), 1),
}


@pytest.mark.parametrize("name", REDUCERS)
@given(seed=st.integers(0, 10_000), high=st.integers(1, 5), wide=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_every_token_lies_in_the_mean_of_its_row(name: str, seed: int, high: int, wide: int) -> None:
    """Rows partition the tokens, each row is the mean of its own, and the class token is alone and first."""
    reducer, layer = REDUCERS[name]()
    tokens = token_set(seed, (2 * high, 2 * wide), layer=layer)
    x, index = reducer(tokens)
    for image in range(len(x)):
        assert (index[image] == 0).nonzero().flatten().tolist() == [0]
        assert sorted(set(index[image].tolist())) == list(range(x.shape[1]))
        for row in range(x.shape[1]):
            mean = tokens.x[image][index[image] == row].mean(0)
            assert torch.allclose(x[image, row], mean, atol=1e-5)


@given(seed=st.integers(0, 10_000), high=st.integers(2, 9), wide=st.integers(2, 9), rate=st.floats(0, 0.95))
@settings(max_examples=30, deadline=None)
def test_bipartite_merging_keeps_what_its_rate_says(seed: int, high: int, wide: int, rate: float) -> None:
    tokens = token_set(seed, (high, wide), protected=0)
    x, index = BipartiteMerging(rate, (2, 2))(tokens)
    number, corners = high * wide, (high // 2) * (wide // 2)
    assert x.shape[1] == number - min(int(number * rate), number - corners)
    assert sorted(set(index[0].tolist())) == list(range(x.shape[1]))


@pytest.mark.parametrize("grid", [(5, 7), (8, 8), (9, 4)])
def test_cells_at_the_border_average_what_is_there(grid: tuple[int, int]) -> None:
    tokens = token_set(0, grid, protected=0)
    tokens = TokenSet(torch.ones_like(tokens.x), tokens.rows, grid, 1, protected=0)
    for reducer in (CellMeans((2, 4)), RunMeans(4)):
        x, index = reducer(tokens)
        assert torch.allclose(x, torch.ones_like(x))
        assert int(index.max()) == x.shape[1] - 1


@pytest.mark.parametrize(("number", "length"), [(94, 3), (110, 7), (64, 4)])
def test_runs_are_given_back_as_nearest_resizing_does(number: int, length: int) -> None:
    """94 of 32: in whole numbers place 47 lies in cell 16, in torch's float32 in cell 15."""
    tokens = token_set(0, (1, number), protected=0)
    x, index = RunMeans(length)(tokens)
    resized = torch.nn.functional.interpolate(x.transpose(1, 2), size=number, mode="nearest").transpose(1, 2)
    assert torch.equal(take_rows(x, index), resized)


def test_what_is_kept_of_a_size_serves_training_too() -> None:
    """Inference may be the first to ask."""
    reducer, tokens = BipartiteMerging(0.5, (2, 2)), token_set(0, (6, 10), protected=0)
    with torch.inference_mode():
        reducer(tokens)
    x = tokens.x.clone().requires_grad_()
    reducer(TokenSet(x, tokens.rows, tokens.grid, 1, protected=0))[0].sum().backward()
    assert x.grad is not None


def test_matching_keeps_no_table_of_all_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part after part gives what the whole table gives; no part is larger than its bound."""
    sources, destinations = torch.randn(2, 50, 8), torch.randn(2, 30, 8)
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (sources, destinations)]
    best, to = (unit[0] @ unit[1].transpose(1, 2)).max(2)
    monkeypatch.setattr("segmeter.encoders.reduction.merging.AT_A_TIME", 7 * 60)
    ours = Matching()(sources, destinations)
    assert torch.allclose(ours[0], best, atol=1e-6)
    assert torch.equal(ours[1], to)


def test_gathering_weighs_tokens_by_their_sizes() -> None:
    x = torch.tensor([[[1.0], [4.0], [9.0]]])
    out = Gathering()(x, torch.tensor([[0, 1, 1]]), 2, torch.tensor([[1.0, 3.0, 1.0]]))
    assert out.flatten().tolist() == [1.0, 5.25]


def test_a_batch_of_algm_merges_as_the_most_varied_image_allows() -> None:
    same = torch.ones(1, 17, 8)
    varied = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    reducer = Algm((1, 5), (2, 2), 0.999)
    rows = first_rows(1, 16, same.device)
    assert reducer(TokenSet(same, rows, (4, 4), 1))[0].shape[1] == 5
    both = TokenSet(torch.cat([same, varied]), rows.expand(2, -1), (4, 4), 1)
    assert reducer(both)[0].shape[1] == 17


def test_step_runs_images_one_by_one_and_restores_every_patch() -> None:
    text = "segmenter@vit-ti:num_classes=5:train_size=128:reduction=step:exits=2,4:confidence=0.26:keep=2"
    model = real_model(parse_model(text))
    images = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image) for image in images.split(1)])
        halted = [each.canvas is not None and bool((each.rows < 0).any()) for each in model.encoder(images)]
    assert together.shape == (2, 5, 128, 192)
    assert torch.allclose(together, alone, atol=1e-6)
    assert any(halted)


def test_where_step_halts_every_patch_later_exits_find_nothing_to_halt() -> None:
    text = "segmenter@vit-ti:num_classes=5:train_size=128:reduction=step:exits=2,4:confidence=0:keep=0"
    model = real_model(parse_model(text))
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (found,) = model.encoder(image)
        assert model(image).isfinite().all()
    assert bool((found.rows < 0).all()) and found.canvas is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("segmenter:reduction=algm:threshold=nan", "threshold must be a number"),
        ("segmenter:reduction=algm:threshold=1.5", "threshold must be a number"),
        ("segmenter:reduction=algm:layers=1,13", "layers 1 to 12, got layer 13"),
        ("segmenter:reduction=algm:layers=5,1", "layers must rise"),
        ("segmenter:reduction=algm:window=2", "two whole numbers"),
        ("segmenter:reduction=algm:window=1,1", "two patches at least"),
        ("segmenter:reduction=algm:r=3", "algm has no option 'r'"),
        ("segmenter:threshold=0.9", "is an option of a reducer"),
        ("segmenter:reduction=agm", "did you mean 'algm'?"),
        ("segmenter:train_size=500", "multiple of 16"),
        ("segmenter@vit-l:reduction=step:exits=24", "before the last of 24 layers"),
        ("segmenter:reduction=step:scales=3", "some of 2, 4, 8, 16"),
        ("segformer:merging=hp", "did you mean 'hq'?"),
        ("segformer:query_mode=bsm", "goes with merging=custom"),
        ("segformer:merging=custom:query_mode=bsm:query_rate=nan", "query_rate must be a number"),
        ("segformer:merging=custom:query_mode=bsm:query_rate=1", "query_rate must be a number"),
        ("segformer:merging=custom:key_stride=0", "key_stride must be whole numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        parse_model(text)
    assert "\n" not in str(refused.value)


def test_a_window_that_does_not_divide_the_grid_is_refused() -> None:
    model = VisionTransformer(VITS["vit-ti"], 144, ALGM.build(layers=(1, 5), window=(2, 2), threshold=0.9))
    with pytest.raises(ValueError, match="does not divide the grid of 9x9 patches"):
        model(torch.zeros(1, 3, 144, 144))


def test_a_cell_larger_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="4x4 tokens does not fit into the 3x3 grid of stage 4"):
        BipartiteMerging(0.8, (4, 4))(token_set(0, (3, 3), layer=4, protected=0))

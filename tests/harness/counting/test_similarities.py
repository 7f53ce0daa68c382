"""Norms and cosines of reducers are dot products under `macs`, and named as left out under `published`."""

from collections import Counter
from contextlib import suppress
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.reduction.algm import Algm
from segmeter.encoders.reduction.grid import BipartiteMerging
from segmeter.encoders.reduction.interface import TokenSet, first_rows
from segmeter.encoders.reduction.tome import ToMe
from segmeter.harness.counting.conventions import Figures, apply_convention
from segmeter.harness.counting.counter import Count, count_call, run_and_count
from segmeter.harness.counting.similarities import SIMILARITIES, norm_costs
from segmeter.harness.counting.work import work_of
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import find_components, real_model

BATCH, DIM = 3, 8


def token_set(grid: tuple[int, int], layer: int, protected: int = 1) -> TokenSet:
    number = grid[0] * grid[1]
    x = torch.randn((BATCH, protected + number, DIM), generator=torch.Generator().manual_seed(0))
    return TokenSet(x, first_rows(BATCH, number, x.device), grid, layer, protected=protected)


def macs(module: nn.Module, *inputs: object) -> dict[str, int]:
    """Operator -> MACs of a module's call."""
    _, count = run_and_count(module, *inputs)
    found: Counter[str] = Counter()
    for work in count.work:
        found[work.operator] += work.macs
        # Two operations for each, at least.
        assert work.flops >= 2 * work.macs
    return {name: figure for name, figure in found.items() if figure}


@pytest.mark.parametrize("window", [(2, 2), (2, 3), (1, 2)])
def test_a_windows_pairs_are_dot_products(window: tuple[int, int]) -> None:
    high, wide = 4, 6
    size = window[0] * window[1]
    windows, pairs = high * wide // size, size * (size - 1) // 2
    assert macs(Algm((1, 5), window, 0.5), token_set((high, wide), 1)) == {
        "local_similarities": BATCH * windows * pairs * DIM,
        "token_norms": BATCH * high * wide * DIM,
    }


@pytest.mark.parametrize("grid", [(4, 6), (3, 5)])
@pytest.mark.parametrize("reducer", [Algm((1, 5), (2, 2), 0.5), ToMe(2, (5,), proportional=True)])
def test_matching_everywhere_takes_the_length_of_each_token_once(
    reducer: nn.Module, grid: tuple[int, int]
) -> None:
    tokens = 1 + grid[0] * grid[1]
    assert macs(reducer, token_set(grid, 5)) == {
        "matmul": BATCH * ceil(tokens / 2) * (tokens // 2) * DIM,
        "token_norms": BATCH * tokens * DIM,
    }


def test_matching_of_a_grid_takes_the_length_of_each_token_once() -> None:
    assert macs(BipartiteMerging(0.5, (2, 2)), token_set((5, 7), 1, protected=0)) == {
        "matmul": BATCH * (35 - 6) * 6 * DIM,
        "token_norms": BATCH * 35 * DIM,
    }


class Pairs(nn.Module):
    """What a user's own reducer may compare by."""

    def forward(self, tokens: TokenSet | Tensor) -> Tensor:
        x = tokens.x if isinstance(tokens, TokenSet) else tokens
        unit = F.normalize(x, dim=2)
        return F.cosine_similarity(x[:, ::2], x[:, 1::2], dim=2) + (unit.norm(dim=2) + x.norm(1, 2))[:, ::2]


def test_a_reducer_of_ones_own_is_counted_alike() -> None:
    tokens = token_set((4, 4), 1, protected=0)
    elements = BATCH * 16 * DIM
    assert macs(Pairs(), tokens) == {"local_similarities": elements // 2, "token_norms": 3 * elements}


def test_a_cosine_divides_each_element_of_both_sides_by_a_length() -> None:
    """Sides of 6 x 8 and 1 x 8, which meets all six: a dot product and a length are multiply-accumulates."""
    costs = SIMILARITIES[F.cosine_similarity](torch.ones(6, 8), torch.ones(1, 8))
    assert Counter({cost.operator: cost.macs for cost in costs if cost.macs}) == {
        "local_similarities": 6 * 8,
        "token_norms": 6 * 8 + 8,
    }
    assert sum(cost.flops for cost in costs if not cost.macs) == 6 * 8 + 8


def test_a_length_is_euclidean_where_no_order_is_given() -> None:
    x = torch.ones(6, 8)
    for order in ((), (None,), (2,), (2.0,)):
        costs = norm_costs("aten::linalg_vector_norm", (x, *order))
        assert costs is not None and sum(cost.macs for cost in costs) == 6 * 8
    # Sums and greatest elements multiply nothing.
    assert norm_costs("aten::linalg_vector_norm", (x, 1)) is None
    assert norm_costs("aten::linalg_vector_norm", (x, float("inf"))) is None


def test_outside_a_reducer_norms_stay_elementwise_work() -> None:
    assert macs(Pairs(), token_set((4, 4), 1, protected=0).x) == {}


class Fails(nn.Module):
    def forward(self, tokens: TokenSet) -> Tensor:
        raise KeyError


class Recovers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reducer = Fails()

    def forward(self, tokens: list[TokenSet]) -> Tensor:
        with suppress(KeyError):
            self.reducer(tokens[0])
        return F.normalize(tokens[0].x, dim=2)


def test_a_reducer_that_failed_is_over() -> None:
    assert macs(Recovers(), [token_set((4, 4), 1)]) == {}


def check(count: Count, find: object, names: set[str]) -> Figures:
    """`macs` is `published` and what that names as left out; gives the figures under `macs`."""
    found = {each: apply_convention(count, find, each) for each in ("published", "macs", "flops")}
    left_out = found["published"].not_counted
    assert found["macs"].total - found["published"].total == sum(v for v in left_out.values() if v)
    assert found["macs"].not_counted == {} and names <= set(left_out)
    # What has no MACs is told beside `macs` and part of `flops`.
    assert found["flops"].by_operator["softmax"] == found["macs"].without_macs["softmax"]
    return found["macs"]


@pytest.mark.parametrize("merging", ["none", "hq", "fast", "2x2"])
def test_segformers_dot_products_by_hand(merging: str) -> None:
    side = 256
    spec = parse_model(f"segformer@mit-b0:merging={merging}")
    size = ImageSize((side, side), (side, side))
    count = work_of(spec, size)
    names = {"token_norms"} if merging in ("hq", "fast") else set()
    figures = check(count, find_components(spec), names)
    # Keys of stages 1 and 2 after reduction by 8 and 4, queries of stages 3 and 4: 8x8 and 16x16 and 8x8.
    dims, tokens = (32, 64, 160, 256), (64, 64, 256, 64)
    expected = sum(2 * n * c for n, c in zip(tokens, dims, strict=True)) if names else 0
    assert figures.by_operator.get("token_norms", 0) == expected


def test_segmenters_dot_products_and_softmax_by_hand() -> None:
    side, dim, heads, classes = 64, 192, 3, 5
    model = real_model(
        parse_model(f"segmenter@vit-ti:num_classes={classes}:train_size={side}:reduction=algm:threshold=-1")
    )
    x = torch.randn((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    tokens = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda block, inputs, output: tokens.append(output[0].shape[1]))
    _, count = count_call(model, lambda: model(x), on_meta=False)
    figures = check(count, component_finder(model), {"token_norms", "local_similarities"})
    # All four windows merge: 17 tokens, 5 after the first block, then as matching leaves.
    assert tokens[:4] == [5] * 4 and len(set(tokens[4:])) == 1
    assert figures.by_operator["local_similarities"] == 4 * 6 * dim
    assert figures.by_operator["token_norms"] == 16 * dim + 5 * dim
    entering = [17, *tokens[:-1]]
    decoding = [tokens[-1] - 1 + classes] * 2
    assert figures.without_macs["softmax"] == 5 * heads * sum(n * n for n in entering + decoding)

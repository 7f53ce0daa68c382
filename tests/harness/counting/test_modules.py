"""Any module, called as users call models: shapes and tensors, nested or named, lazy, half, exported."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from segmeter.harness.api import assert_within_budget, count, profile
from segmeter.harness.counting.counter import DataDependentError


class Two(nn.Module):
    """Tokens (B, N, 8) through one layer, a context (B, 4) through another."""

    macs = 2 * 5 * 8 * 16 + 2 * 4 * 16

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, 16, bias=False)
        self.context = nn.Linear(4, 16, bias=False)

    def forward(self, tokens: Tensor, context: Tensor, *, scale: float = 1.0, double: bool = False) -> Tensor:
        both = self.tokens(tokens) + self.context(context)[:, None]
        return self.tokens(tokens) if double else both * scale


A, B = (2, 5, 8), (2, 4)
WAYS: list[tuple[Any, dict[str, Any] | None]] = [
    ((A, B), None),
    ([A, B], None),
    ([list(A), list(B)], None),
    ([torch.Size(A), torch.Size(B)], None),
    ({"tokens": A, "context": B}, None),
    ({"context": list(B), "tokens": A}, None),
    ((A,), {"context": B}),
    (A, {"context": B}),
    (((A,), {"context": B}), None),
    (None, {"tokens": A, "context": B}),
    ({"tokens": A, "context": B, "scale": 2.0}, None),
    ((torch.zeros(A), torch.zeros(B)), None),
    ([torch.zeros(A), torch.zeros(B)], None),
    ({"tokens": torch.zeros(A), "context": torch.zeros(B)}, None),
    (((torch.zeros(A),), {"context": torch.zeros(B), "scale": 2.0}), None),
    (torch.zeros(A), {"context": torch.zeros(B)}),
]


@pytest.mark.parametrize(("inputs", "kwargs"), WAYS)
def test_every_way_to_write_the_arguments_is_one_call(inputs: Any, kwargs: dict[str, Any] | None) -> None:
    assert count(Two(), inputs, kwargs=kwargs).macs == Two.macs
    assert assert_within_budget(Two(), inputs, kwargs=kwargs, total=Two.macs).macs == Two.macs


def test_keyword_arguments_reach_the_model() -> None:
    twice = 2 * (2 * 5 * 8 * 16) + 2 * 4 * 16
    assert count(Two(), (A, B), kwargs={"double": True}).macs == twice
    assert count(Two(), {"tokens": A, "context": B, "double": True}).macs == twice


def test_a_profile_takes_the_same_arguments() -> None:
    for inputs in ((A, B), {"tokens": A, "context": B}):
        assert profile(Two(), inputs, seconds=0.02).samples
    assert profile(Two(), A, kwargs={"context": B}, seconds=0.02).samples
    assert profile(Two().half(), (A, B), seconds=0.02).samples
    assert profile(nn.Embedding(10, 4), (2, 3), seconds=0.02).samples


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)

    def forward(self, batch: dict[str, Any]) -> list[Tensor]:
        return [self.layer(each) for each in (batch["image"], *batch["more"])]


@pytest.mark.parametrize("kind", [torch.zeros, tuple])
def test_a_dict_that_holds_no_names_of_arguments_is_one_argument(kind: Any) -> None:
    batch = {"image": kind((3, 8)), "more": [kind((2, 8)), kind((5, 8))]}
    assert count(Nested(), batch).macs == count(Nested(), (batch,)).macs == 10 * 32


class Bare(nn.Module):
    """Takes a list, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, images):  # type: ignore[no-untyped-def]
        return self.layer(torch.stack(images))


@pytest.mark.parametrize("images", [1, 2])
def test_a_list_of_images_is_one_argument_where_the_model_takes_a_list(images: int) -> None:
    assert count(Bare(), [torch.zeros(3, 8, 8)] * images).macs == images * 64 * 12
    assert count(Bare(), [(3, 8, 8)] * images).macs == images * 64 * 12


def test_a_detector_takes_a_list_of_images_as_torchvision_writes_it() -> None:
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    as_list, as_argument = count(model, [image]), count(model, ([image],))
    assert as_list.macs == as_argument.macs > 10**8
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shapes_have_the_model_s_own_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    found, single = count(model, (1, 3, 8, 8)), count(plain, (1, 3, 8, 8))
    assert found.macs == single.macs
    assert found.activation_bytes * 4 == single.activation_bytes * dtype.itemsize


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 8)
        self.places = nn.Parameter(torch.zeros(16, 8))
        self.image = nn.Linear(3, 8, bias=False)

    def forward(self, ids: Tensor, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        words = self.words(ids) + self.places[: ids.shape[1]]
        if mask is not None:
            words = words * mask[..., None]
        return torch.cat([words, self.image(picture)], 1)


def test_shapes_of_token_ids_are_told_by_what_the_model_asks_for() -> None:
    assert count(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), (2, 5)).macs == 2 * 5 * 4 * 2
    assert count(Text(), ((2, 5), (2, 7, 3))).macs == 2 * 7 * 3 * 8
    assert count(Text(), {"picture": (2, 7, 3), "ids": (2, 5), "mask": (2, 5)}).macs == 2 * 7 * 3 * 8

    class Looks(nn.Module):
        def forward(self, at: Tensor) -> Tensor:
            return torch.eye(5, device=at.device)[at] @ torch.eye(5, device=at.device)

    assert count(Looks(), (2, 3)).macs == 2 * 3 * 25


def test_an_error_that_no_type_explains_is_the_model_s_own() -> None:
    with pytest.raises(RuntimeError, match=r"reduction dim|cannot be multiplied"):
        count(nn.Linear(3, 4), (2, 5))


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("inputs", [(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)], ids=["meta", "real"])
def test_lazy_modules_are_counted_with_the_weights_that_they_will_have(inputs: Any) -> None:
    model = lazy()
    settled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    found, plain = count(model, inputs), count(settled, inputs)
    assert (found.macs, found.flops, found.params) == (plain.macs, plain.flops, plain.params)
    # The model itself still waits for its first input.
    assert isinstance(model[0], nn.LazyConv2d) and torch.nn.parameter.is_lazy(model[0].weight)
    timed = [profile(each, (1, 3, 8, 8), seconds=0.02).parameter_bytes for each in (model, settled)]
    assert timed[0] == timed[1] > 4 * plain.params
    assert torch.nn.parameter.is_lazy(model[3].weight)


class Exportable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(self.stem(x)).mean((2, 3)))
        return nn.functional.scaled_dot_product_attention(y, y, y) + torch.arange(4, device=x.device)


def test_an_exported_program_counts_as_its_model_and_by_its_paths() -> None:
    model, image = Exportable().eval(), torch.rand(2, 3, 8, 8)
    plain = count(model, image)
    program = torch.export.export(model, (image,))
    for found in (count(program, image), count(program, (2, 3, 8, 8)), count(program)):
        assert (found.macs, found.flops, found.params) == (plain.macs, plain.flops, plain.params)
        assert found.components == plain.components
        assert found.not_counted == {}
    assert assert_within_budget(program, image, total=plain.macs).macs == plain.macs
    # The flat module that torch makes of it has one path only.
    assert count(program.module(), image).macs == count(program.module(), (2, 3, 8, 8)).macs == plain.macs


class Restless(nn.Module):
    """Writes whatever can be written: buffers, weights, its input, attributes; draws from every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("renewed", torch.zeros(4))
        self.calls = 0
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        self.more = x
        self.seen += x.mean(0)  # type: ignore[operator]
        self.renewed = self.renewed + 1
        self.seen.view(2, 2)[0].data.add_(torch.rand(2))
        self.layer.weight.data.mul_(2)
        self.norm.train()
        self.register_buffer("extra", x.clone())
        noise = random.random() + float(np.random.rand())
        return self.layer(self.norm(x.mul_(3))) + noise + torch.randn(4)


def state(model: Restless) -> list[Any]:
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    return [
        [tensor.tolist() for tensor in tensors],
        [id(tensor) for tensor in tensors],
        model.calls,
        model.last,
        sorted(vars(model)),
        [part.training for part in model.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
    ]


def test_nothing_is_left_behind() -> None:
    model, x, wrong = Restless(), torch.rand(3, 4), torch.rand(3, 5)
    before, given = state(model), x.clone()
    found = count(model, x)
    assert found.macs > 0
    assert state(model) == before
    assert x.equal(given)
    # Nor by a count that fails.
    with pytest.raises(RuntimeError):
        count(model, wrong)
    assert state(model) == before


def test_a_model_keeps_its_own_mode_in_each_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    model[1].eval()
    count(model, torch.rand(3, 4))
    assert [part.training for part in model.modules()] == [True, True, False]


@pytest.mark.parametrize(
    "inputs",
    [
        (0, 3, 8, 8),
        (1, 3, 0, 8),
        (1, 3, -8, 8),
        [(1, 3, 8, 8), (0, 4)],
        {"input": (0, 3, 8, 8)},
        torch.zeros(0, 3, 8, 8),
        torch.zeros(1, 3, 0, 8),
        [torch.zeros(0, 3, 8, 8)],
    ],
)
def test_a_batch_of_nothing_is_refused(inputs: Any) -> None:
    for measure in (count, assert_within_budget, lambda m, x: profile(m, x, seconds=0.02)):
        with pytest.raises(ValueError, match=r"a batch of nothing costs nothing|must be 1 or more"):
            measure(nn.Conv2d(3, 4, 1), inputs)  # type: ignore[operator]


@pytest.mark.parametrize("inputs", [None, 5, "1x3x8x8"])
def test_inputs_that_are_none_are_told(inputs: Any) -> None:
    with pytest.raises(ValueError, match="inputs must be a shape, a tensor, a tuple or a dict"):
        count(nn.Conv2d(3, 4, 1), inputs)


def test_work_that_depends_on_values_is_not_counted_by_shape() -> None:
    class Picks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0]

    with pytest.raises(DataDependentError):
        count(Picks(), (3, 4))

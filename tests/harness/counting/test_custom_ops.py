"""Operators of the user's own: one line gives them a cost; without it they are named with their shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmeter.harness.api import count, register_op
from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.counting.op_costs import register_formula


@torch.library.custom_op("custom_op_test::scaled", mutates_args=())
def scaled(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight


@scaled.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, x[:1])


def test_unknown_until_registered() -> None:
    before = count(Scaled(), (2, 3))
    assert before.not_counted == {"custom_op_test::scaled": "1x, first in the model itself on 2x3 1x3"}
    assert before.macs == 0
    register_op("custom_op_test::scaled", lambda x, weight: x.numel())
    after = count(Scaled(), (2, 3))
    assert after.not_counted == {}
    assert (after.macs, after.flops) == (6, 12)


def test_an_operator_without_a_formula_is_in_the_figures_by_name() -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv_ex(x)[0]

    _, counted = run_and_count(Inverse(), torch.eye(3))
    figures = apply_convention(counted, lambda path: path, "macs")
    assert figures.not_counted == {"aten::linalg_inv_ex": None}
    # What is not known has no share, however much is known beside it.
    assert figures.coverage is None
    assert figures.unknown[0].shapes == ((3, 3),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scaled", "expected an operator's name such as"),
        ("aten::addmm", "aten::addmm has a formula already"),
    ],
)
def test_a_formula_that_cannot_be_registered(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_formula(name, lambda *args: 0)


@pytest.mark.parametrize("found", [0.5, -1, True])
def test_a_formula_must_give_a_whole_number(found: Any) -> None:
    register_op("custom_op_test::scaled", lambda x, weight: found)
    with pytest.raises(ValueError, match=rf"must return a whole number of MACs, got {found}"):
        count(Scaled(), (2, 3))
    register_op("custom_op_test::scaled", lambda x, weight: x.numel())


def test_a_formula_may_give_none_or_one() -> None:
    for macs in (0, 1):
        register_op("custom_op_test::scaled", lambda x, weight, macs=macs: macs)  # type: ignore[misc]
        assert count(Scaled(), (2, 3)).macs == macs
    register_op("custom_op_test::scaled", lambda x, weight: x.numel())

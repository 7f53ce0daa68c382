"""What each element costs, by the operators' own arguments: those that only a GPU or training calls too."""

import pytest
import torch

from segmeter.harness.counting import elements

X, WEIGHT, BIAS = torch.zeros(2, 6, 5), torch.ones(6), torch.zeros(6)
# Mean, variance, difference and quotient of 60 elements; scale and shift where there is a weight.
LOOKS = {True: (60 * 5, 60 * 8), False: (60 * 4, 60 * 6)}


def figures(costs: list[elements.Cost]) -> tuple[int, int]:
    (cost,) = costs
    return cost.macs, cost.flops


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_with_a_weight_scales_and_shifts(affine: bool) -> None:
    weight = WEIGHT if affine else None
    # A weight without a bias is multiplied too, and a bias alone is no weight.
    for bias in (BIAS, None):
        assert figures(elements.group_norm([X, weight, bias, 2, 6, 5, 3, 1e-5], None)) == LOOKS[affine]
        assert figures(elements.training_batch_norm([X, weight, bias], None)) == LOOKS[affine]
        assert figures(elements.layer_norm([X, (5,), weight, bias, 1e-5], None)) == LOOKS[affine]


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_looks_at_its_input_in_training_alone(affine: bool) -> None:
    given = [X, WEIGHT if affine else None, BIAS]
    known = (60 * 2, 120) if affine else (60, 120)
    # With running statistics, without them, and as vendors write it: without a flag, or with one behind it.
    assert figures(elements.batch_norm([*given, BIAS, WEIGHT, True, 0.1, 1e-5], None)) == LOOKS[affine]
    assert figures(elements.batch_norm([*given, BIAS, WEIGHT, False, 0.1, 1e-5], None)) == known
    assert figures(elements.batch_norm([*given, True, 0.1, 1e-5], None)) == LOOKS[affine]
    assert figures(elements.batch_norm([*given, BIAS, WEIGHT, 0.1, 1e-5], None)) == known
    assert figures(elements.batch_norm([*given, BIAS, WEIGHT, False, 0.1, 1e-5, True], None)) == known


def test_a_bag_adds_up_the_rows_that_its_indices_name() -> None:
    # 2 x 5 indices into rows of 3.
    assert figures(elements.embedding_bag([torch.zeros(11, 3), torch.zeros(2, 5)], None)) == (0, 30)


def test_of_several_outputs_and_inputs_one_is_counted() -> None:
    outputs = (torch.zeros(4), torch.zeros(7))
    assert figures(elements.per_output("x", 2, 3)([], outputs)) == (8, 12)
    assert figures(elements.per_output("x", 2, 3)([], outputs[1])) == (14, 21)
    assert figures(elements.per_input("x", 2, 3)(outputs, None)) == (8, 12)
    assert figures(elements.per_input("x", 2, 3, at=1)(outputs, None)) == (14, 21)


def test_each_tensor_of_a_list_is_counted_and_no_number() -> None:
    assert figures(elements.each_of_a_list([[torch.zeros(4), torch.zeros(7), 5]], None)) == (0, 11)


def test_windows_are_given_by_their_sides_or_by_one() -> None:
    out = torch.zeros(1, 2, 3, 3)
    assert figures(elements.window_pool(2)([X, [2]], out)) == (0, 18 * 4)
    assert figures(elements.window_pool(2)([X, 2], (out, None))) == (0, 18 * 4)
    assert figures(elements.window_pool(2)([X, [2, 3]], out)) == (0, 18 * 6)
    assert figures(elements.window_pool(3)([X, [2]], out)) == (0, 18 * 8)


def test_a_grid_is_a_matrix_times_homogeneous_coordinates() -> None:
    # 2 maps of 3 x 4 places, 2 coordinates of 3 products each.
    out = torch.zeros(2, 3, 4, 2)
    assert figures(elements.affine_grid([torch.zeros(2, 2, 3)], out)) == (48 * 3, 2 * 48 * 3)


def test_a_weight_norm_squares_sums_and_scales() -> None:
    assert figures(elements.weight_norm([torch.zeros(4, 3), torch.zeros(4, 1)], None)) == (0, 3 * 12 + 4)

"""What sorting compares and gathering moves: n * ceil(log2 n) comparisons, each byte read and written."""

from typing import Any

import pytest
import torch

from segmeter.harness.counting.moves import BYTES, COMPARISONS, moves_of

ROWS = torch.zeros(6, 8)


@pytest.mark.parametrize("name", ["aten::sort", "aten::argsort", "aten::topk"])
@pytest.mark.parametrize(
    ("values", "args", "comparisons"),
    [
        # Six rows of eight values: 48 values, log2(8) = 3 comparisons each.
        (ROWS, (), 48 * 3),
        (ROWS, (-1,), 48 * 3),
        (ROWS, (1,), 48 * 3),
        # Eight columns of six: log2(6) is between 2 and 3.
        (ROWS, (0,), 48 * 3),
        (torch.zeros(4, 9), (0,), 36 * 2),
        (torch.zeros(4, 9), (-2,), 36 * 2),
        (torch.zeros(4, 9), (1,), 36 * 4),
        (torch.zeros(4, 9), (-1, True), 36 * 4),
        # Whether the order is descending is no axis.
        (torch.zeros(4, 9), (0, True), 36 * 2),
        # Of two values and of one, which no sorting does without looking at.
        (torch.zeros(5, 2), (), 10),
        (torch.zeros(5, 1), (), 5),
        (torch.zeros(()), (), 1),
    ],
)
def test_sorting_compares_each_value_log2_times(
    name: str, values: torch.Tensor, args: tuple[Any, ...], comparisons: int
) -> None:
    # The k of topk comes first and is no axis; the axis is the last whole number.
    given = (values, 3, *(args or (-1,))) if name == "aten::topk" else (values, *args)
    assert moves_of(name, given, None) == (COMPARISONS, comparisons)


def test_a_topk_without_an_axis_takes_the_last() -> None:
    assert moves_of("aten::topk", (torch.zeros(4, 9), 9), None) == (COMPARISONS, 36 * 4)


@pytest.mark.parametrize(
    ("name", "args", "out"),
    [
        ("aten::gather", (ROWS, 1, torch.zeros(6, 2, dtype=torch.int64)), torch.zeros(6, 2)),
        ("aten::index_select", (ROWS, 1, torch.zeros(12, dtype=torch.int64)), torch.zeros(12)),
        ("aten::index", (ROWS, [None, torch.zeros(12, dtype=torch.int64)]), torch.zeros(12)),
    ],
)
def test_gathering_reads_and_writes_what_it_takes_and_reads_its_index(
    name: str, args: Any, out: torch.Tensor
) -> None:
    # Twelve floats of four bytes, read and written; twelve indices of eight bytes, read.
    assert moves_of(name, args, out) == (BYTES, 12 * (4 + 4) + 12 * 8)


def test_gathered_numbers_of_classes_are_no_indices() -> None:
    classes, index = torch.zeros(500, dtype=torch.int64), torch.zeros(12, dtype=torch.int32)
    moved = moves_of("aten::index_select", (classes, 0, index), torch.zeros(12, dtype=torch.int64))
    # Twelve classes of eight bytes, read and written; twelve indices of four bytes, read.
    assert moved == (BYTES, 12 * (8 + 8) + 12 * 4)


@pytest.mark.parametrize("suffix", ["", "_"])
@pytest.mark.parametrize("name", ["scatter", "scatter_add", "index_add", "index_copy"])
def test_scattering_reads_and_writes_its_source_and_reads_its_index(name: str, suffix: str) -> None:
    index, source = torch.zeros(6, 2, dtype=torch.int64), torch.zeros(6, 2, dtype=torch.float16)
    # Twelve halves of two bytes, read and written, and twelve indices of eight bytes.
    assert moves_of(f"aten::{name}{suffix}", (ROWS, 1, index, source), ROWS) == (BYTES, 12 * (2 + 2) + 12 * 8)


def test_indices_in_a_list_are_read_too() -> None:
    rows, columns = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    moved = moves_of("aten::index_put", (ROWS, [rows, columns], torch.zeros(5)), ROWS)
    assert moved == (BYTES, 5 * (4 + 4) + 2 * 5 * 8)


def test_what_neither_sorts_nor_gathers_moves_nothing() -> None:
    assert moves_of("aten::add", (ROWS, ROWS), ROWS) is None

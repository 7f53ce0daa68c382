"""The levels' geometry, and that what is kept of it serves every later pass."""

import gc
import weakref

import pytest
import torch

from segmeter.encoders.parts.layers import Levels, _kept_levels, _recent_levels

SIZES = ((2, 3), (4, 6), (8, 12))
CPU = torch.device("cpu")


def test_levels_follow_each_other_and_centres_are_cell_centres() -> None:
    levels = Levels.of([torch.zeros(1, 4, *size) for size in SIZES])
    assert levels.starts.tolist() == [0, 6, 30]
    assert levels.shapes.tolist() == [list(size) for size in SIZES]
    # Token 7 is row 0, column 1 of the second level.
    assert levels.centres[7].tolist() == pytest.approx([1.5 / 6, 0.5 / 4])


def test_the_first_levels_are_the_levels_of_the_first_maps() -> None:
    # On a GPU they are made anew and kept; here they are cut from the others. Both must be the same.
    for count in (1, 2, 3):
        cut = Levels.of_sizes(SIZES, CPU, torch.float32).first(count)
        made = Levels.of_sizes(SIZES[:count], CPU, torch.float32)
        assert cut.sizes == made.sizes
        for name in ("shapes", "starts", "centres"):
            assert torch.equal(getattr(cut, name), getattr(made, name))


def test_geometry_kept_from_inference_can_be_trained_with() -> None:
    _recent_levels.cache_clear()
    with torch.inference_mode():
        kept = _kept_levels(SIZES, CPU, torch.float32)
    fresh = Levels.of_sizes(SIZES, CPU, torch.float32)
    assert torch.equal(kept.centres, fresh.centres) and torch.equal(kept.shapes, fresh.shapes)
    weight = torch.ones(2, requires_grad=True)
    # An inference tensor cannot be saved for the backward pass.
    (kept.centres * weight).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == pytest.approx(fresh.centres.sum(0).tolist())
    assert _kept_levels(SIZES, CPU, torch.float32) is kept


def test_geometry_that_a_cuda_graph_reads_outlives_any_number_of_other_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _recent_levels.cache_clear()
    warmed_up = _kept_levels(SIZES, CPU, torch.float32)
    with monkeypatch.context() as capture:
        capture.setattr(torch.cuda, "is_initialized", lambda: True)
        capture.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        captured = weakref.ref(_kept_levels(SIZES, CPU, torch.float32).shapes)
    assert captured() is warmed_up.shapes
    del warmed_up
    for width in range(1, 100):
        _kept_levels(((1, width),), CPU, torch.float32)
    gc.collect()
    # Freed memory would hold something else by the next replay.
    assert captured() is not None and _kept_levels(SIZES, CPU, torch.float32).shapes is captured()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_makes_its_geometry_once() -> None:
    maps = [torch.zeros(1, 4, *size, device="cuda") for size in SIZES]
    assert Levels.of(maps) is Levels.of(maps)
    assert Levels.of(maps).first(2) is Levels.of(maps[:2])

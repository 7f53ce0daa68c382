"""The levels' geometry, and that what is kept of it serves every later pass."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segmeter.cuda_ops import Kept, level_sizes, may_keep
from segmeter.encoders.parts.layers import Levels, position_tokens

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


def kept_levels() -> Kept[Levels]:
    return Kept(lambda *sizes: Levels.of_sizes(sizes, CPU, torch.float32), most=64)


def test_geometry_kept_from_inference_can_be_trained_with() -> None:
    levels = kept_levels()
    with torch.inference_mode():
        kept = levels.of(*SIZES)
    fresh = Levels.of_sizes(SIZES, CPU, torch.float32)
    assert torch.equal(kept.centres, fresh.centres) and torch.equal(kept.shapes, fresh.shapes)
    weight = torch.ones(2, requires_grad=True)
    # An inference tensor cannot be saved for the backward pass.
    (kept.centres * weight).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == pytest.approx(fresh.centres.sum(0).tolist())
    assert levels.of(*SIZES) is kept


def test_geometry_that_a_cuda_graph_reads_outlives_any_number_of_other_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = kept_levels()
    warmed_up = levels.of(*SIZES)
    with monkeypatch.context() as capture:
        capture.setattr(torch.cuda, "is_initialized", lambda: True)
        capture.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        captured = weakref.ref(levels.of(*SIZES).shapes)
    assert captured() is warmed_up.shapes
    del warmed_up
    for width in range(1, 100):
        levels.of((1, width))
    gc.collect()
    # Freed memory would hold something else by the next replay.
    assert captured() is not None and levels.of(*SIZES).shapes is captured()


def test_codes_are_kept_for_one_size_dtype_and_temperature() -> None:
    like = torch.zeros(1)
    code = position_tokens(3, 5, 8, like=like)
    assert position_tokens(3, 5, 8, like=like) is code
    assert position_tokens(3, 5, 8, like=like.double()).dtype is torch.float64
    for other in (position_tokens(5, 3, 8, like=like), position_tokens(3, 5, 8, like=like, temperature=20.0)):
        assert not torch.equal(other, code)


def test_nothing_is_kept_where_operators_are_counted() -> None:
    like = torch.zeros(1)
    warm = position_tokens(2, 3, 8, like=like)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        watched = position_tokens(2, 3, 8, like=like)
    assert "sin" in seen and torch.equal(watched, warm)
    assert may_keep(like) and not may_keep(torch.zeros(1, device="meta"))


def test_a_compiled_pass_of_any_size_makes_its_level_tensors_in_one_operator() -> None:
    """On a GPU anything else copies the sizes to it, and the op's check of them waits to read them back."""
    graphs = []

    def keep(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module.graph)
        return module.forward

    def tensors(*maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = Levels.of(maps)
        return levels.shapes, levels.starts

    compiled = torch.compile(tensors, backend=keep, fullgraph=True, dynamic=True)
    # No two sides alike: torch takes equal ones for the same.
    for sizes in (((2, 3), (5, 7), (9, 11)), ((3, 5), (7, 9), (11, 13))):
        shapes, starts = compiled(*(torch.zeros(1, 4, *size) for size in sizes))
        fresh = Levels.of_sizes(sizes, CPU, torch.float32)
        assert torch.equal(shapes, fresh.shapes) and torch.equal(starts, fresh.starts)
    (graph,) = graphs
    operators = [str(node.target) for node in graph.nodes if str(node.target).startswith("segmeter")]
    assert operators == ["segmeter.level_tensors"]
    assert not [node for node in graph.nodes if node.target in (torch.tensor, torch.full)]


def test_the_operator_of_level_tensors_tells_what_they_hold_and_shares_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {}
    monkeypatch.setattr(level_sizes, "remember", lambda tensor, content: told.update({id(tensor): content}))
    like, flat = torch.zeros(1), [side for size in SIZES for side in size]
    torch.library.opcheck(torch.ops.segmeter.level_tensors.default, (like, flat))
    first, second = (torch.ops.segmeter.level_tensors(like, flat) for _ in range(2))
    assert [told[id(tensor)] for tensor in first] == [tensor.tolist() for tensor in first]
    # Compiled code may write into memory once it has read it last.
    assert not {tensor.data_ptr() for tensor in first} & {tensor.data_ptr() for tensor in second}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_makes_its_geometry_once() -> None:
    maps = [torch.zeros(1, 4, *size, device="cuda") for size in SIZES]
    assert Levels.of(maps) is Levels.of(maps)
    assert Levels.of(maps).first(2) is Levels.of(maps[:2])

"""What only a GPU can show: dtypes, CUDA graphs, streams, threads, determinism, large tensors.

To check every access of memory: ``PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python
-m pytest -m cuda tests/cuda_ops -k "agree or odd"``, and the same with ``--tool racecheck``.
"""

import threading
from collections.abc import Callable

import pytest
import torch

from segmeter.cuda_ops import implementation_for, ms_deform_attn, ms_deform_attn_fused, use_implementation
from tests.helpers.op_inputs import as_leaves, draw, relative_error

pytestmark = pytest.mark.cuda
Op = Callable[..., torch.Tensor]
both_ops = pytest.mark.parametrize(
    ("op", "form"), [(ms_deform_attn, "plain"), (ms_deform_attn_fused, "fused")], ids=["plain", "fused"]
)
SIZES = [(16, 20), (8, 10), (4, 5)]


def on_gpu(form: str, dtype: torch.dtype = torch.float32, **kind: object) -> tuple[torch.Tensor, ...]:
    tensors = getattr(draw(SIZES, **kind), form)()  # type: ignore[arg-type]
    return tuple(t.to("cuda", dtype if t.is_floating_point() else None) for t in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_compiled_kernel_runs(dtype: torch.dtype) -> None:
    chosen = implementation_for("cuda", dtype)
    assert chosen.name == "cuda-kernel", chosen.reason


@both_ops
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # 53, 24, 11 and 8 bits of each result.
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize("dim", [8, 32, 36, 64, 128])
# As many as the maps have tokens: then a block's queries are neighbours, and add to each other.
@pytest.mark.parametrize("queries", [300, 420])
def test_output_and_gradients_agree_with_the_float64_reference(
    op: Op, form: str, dtype: torch.dtype, tolerance: float, dim: int, queries: int
) -> None:
    tensors = on_gpu(form, dtype, queries=queries, dim=dim)
    given = as_leaves(tensors)
    exact = as_leaves(tuple(t.cpu().double() if t.is_floating_point() else t.cpu() for t in tensors))
    output = op(*given)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.backward(grad.cuda())
    with use_implementation("reference"):
        expected = op(*exact)
        expected.backward(grad.double())
    assert relative_error(output.cpu(), expected) < tolerance
    for position, (mine, theirs) in enumerate(zip(given, exact, strict=True)):
        # Rounded to 8 or 11 bits, some places fall on a line between pixels, where their gradient jumps.
        smooth = position in (0, len(given) - 1) or dtype in (torch.float32, torch.float64)
        if mine.is_floating_point() and smooth:
            assert relative_error(mine.grad.cpu(), theirs.grad) < tolerance


@both_ops
def test_a_cuda_graph_replays_forward_and_backward(op: Op, form: str) -> None:
    leaves = as_leaves(on_gpu(form))
    wanted = [t for t in leaves if t.requires_grad]

    def step() -> tuple[torch.Tensor, ...]:
        output = op(*leaves)
        return output, *torch.autograd.grad(output.square().sum(), wanted)

    # As torch asks: a warm-up on a side stream, which also compiles the kernels and reads the sizes.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = [t.clone() for t in step()]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for result in results:
        result.fill_(float("nan"))
    graph.replay()
    for result, before in zip(results, expected, strict=True):
        # Atomic additions come in another order.
        torch.testing.assert_close(result, before)


def test_levels_that_do_not_fit_read_nothing_inside_a_graph() -> None:
    value, shapes, starts, locations, weights = on_gpu("plain")
    ms_deform_attn(value, shapes, starts, locations, weights)
    # Sizes never seen before cannot be read during capture: the kernel must take no token that is not there.
    wrong = shapes * 1000
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = ms_deform_attn(value, wrong, starts, locations, weights)
    graph.replay()
    torch.cuda.synchronize()
    assert output.isfinite().all()


def test_work_is_queued_on_torchs_current_stream() -> None:
    value, *others = on_gpu("plain", queries=300)
    expected = ms_deform_attn(value * 3, *others)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # A queue on another stream would not wait for this, and read what is not there yet.
        torch.cuda._sleep(50_000_000)
        output = ms_deform_attn(value * 3, *others)
    side.synchronize()
    torch.testing.assert_close(output, expected)


def test_a_thread_that_has_touched_no_gpu_can_call_the_op() -> None:
    tensors = on_gpu("plain")
    expected = ms_deform_attn(*tensors)
    results: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: results.append(ms_deform_attn(*tensors)))
    thread.start()
    thread.join()
    torch.testing.assert_close(results[0], expected)


def test_the_tensors_own_gpu_runs_it() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    tensors = tuple(t.to("cuda:1") for t in on_gpu("plain"))
    with torch.cuda.device(0):
        output = ms_deform_attn(*tensors)
    assert output.device == torch.device("cuda:1")
    torch.testing.assert_close(
        output.cpu(), ms_deform_attn(*(t.cpu() for t in tensors)), rtol=1e-4, atol=1e-5
    )


def test_a_level_tensor_on_the_cpu_is_named() -> None:
    value, shapes, *others = on_gpu("plain")
    with pytest.raises(TypeError, match="spatial_shapes"):
        ms_deform_attn(value, shapes.cpu(), *others)


@pytest.mark.parametrize("warn_only", [False, True])
def test_deterministic_mode_is_told(warn_only: bool) -> None:
    leaves = as_leaves(on_gpu("plain"))
    output = ms_deform_attn(*leaves).sum()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        if warn_only:
            with pytest.warns(UserWarning, match="not deterministic"):
                output.backward()
        else:
            with pytest.raises(RuntimeError, match="not deterministic"):
                output.backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_more_than_2_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[1] < 40 * 2**30:
        pytest.skip("needs a GPU with 40 GiB")
    side = 2900  # 2900 * 2900 * 256 channels: 2^31 and a little
    value = torch.zeros(1, side * side, 8, 32, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    assert value.numel() > 2**31
    with torch.no_grad():
        value[0, -1] = 3
    places = torch.tensor([1 - 0.5 / side, 1 - 0.5 / side], device="cuda").expand(1, 2, 8, 1, 1, 2)
    levels = torch.tensor([[side, side]], device="cuda"), torch.tensor([0], device="cuda")
    # bfloat16 cannot say where the last pixel is: a reference point in float32, and no offset.
    points = places[:, :, 0, 0]
    nothing = torch.zeros(1, 2, 8, 1, 1, 2, dtype=torch.bfloat16, device="cuda")
    output = ms_deform_attn_fused(value, *levels, points, nothing, nothing[..., 0])
    torch.testing.assert_close(output, torch.full_like(output, 3), rtol=0.02, atol=0)
    output.sum().backward()
    assert value.grad is not None
    # Two queries, each with weight 1.
    torch.testing.assert_close(value.grad[0, -1].float().mean().item(), 2.0, rtol=0.02, atol=0)

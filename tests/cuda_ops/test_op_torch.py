"""The op within torch: gradcheck, opcheck, compile, export, autocast, counters, determinism."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segmeter.cuda_ops import ms_deform_attn, ms_deform_attn_fused, use_implementation
from segmeter.cuda_ops.formulas import forward_macs, fvcore_handles
from tests.helpers.op_inputs import as_leaves, draw, relative_error

SMALL = {"sizes": [(3, 4), (2, 2)], "batch": 1, "queries": 3, "dim": 2}
OPS = [(ms_deform_attn, "plain"), (ms_deform_attn_fused, "fused")]
both_ops = pytest.mark.parametrize(("op", "form"), OPS, ids=["plain", "fused"])
Op = Callable[..., torch.Tensor]


def arguments(
    form: str, device: torch.device, dtype: torch.dtype, **kind: object
) -> tuple[torch.Tensor, ...]:
    tensors = getattr(draw(**kind), form)()  # type: ignore[arg-type]
    return tuple(t.to(device, dtype if t.is_floating_point() else None) for t in tensors)


@both_ops
def test_gradients_agree_with_finite_differences(op: Op, form: str, device: torch.device) -> None:
    leaves = as_leaves(arguments(form, device, torch.float64, **SMALL))
    # Atomic additions on a GPU change the order of sums from run to run.
    assert torch.autograd.gradcheck(op, leaves, eps=1e-6, atol=1e-6, nondet_tol=1e-10)


@both_ops
@pytest.mark.parametrize("own", [(False, False), (True, False), (False, True)])
def test_shared_reference_points_gather_all_gradients(
    op: Op, form: str, own: tuple[bool, bool], device: torch.device
) -> None:
    kind = SMALL | {"batch": 2, "own_points": own}
    assert torch.autograd.gradcheck(
        op, as_leaves(arguments(form, device, torch.float64, **kind)), atol=1e-6, nondet_tol=1e-10
    )


@both_ops
def test_the_registration_holds_what_torch_asks(op: Op, form: str, device: torch.device) -> None:
    leaves = as_leaves(arguments(form, device, torch.float32, **SMALL))
    registered = getattr(torch.ops.segmeter, op.__name__).default
    torch.library.opcheck(registered, leaves)


@both_ops
def test_compile_breaks_no_graph(op: Op, form: str, device: torch.device) -> None:
    tensors = arguments(form, device, torch.float32, **SMALL)
    eager, compiled = as_leaves(tensors), as_leaves(tensors)
    op(*eager).square().sum().backward()
    # aot_eager traces forward and backward as inductor would, and needs no compiler.
    torch.compile(op, fullgraph=True, backend="aot_eager")(*compiled).square().sum().backward()
    for mine, theirs in zip(compiled, eager, strict=True):
        if mine.is_floating_point():
            assert relative_error(mine.grad, theirs.grad) < 1e-6


@both_ops
def test_inductor_compiles_forward_and_backward_whole(op: Op, form: str, device: torch.device) -> None:
    tensors = arguments(form, device, torch.float32, **SMALL)
    eager, compiled = as_leaves(tensors), as_leaves(tensors)
    if form == "fused":
        # The gradient of reference points is plain torch, for which inductor would call a C++ compiler.
        for leaves in (eager, compiled):
            leaves[3].requires_grad_(False)
    op(*eager).sum().backward()
    torch.compile(op, fullgraph=True)(*compiled).sum().backward()
    for mine, theirs in zip(compiled, eager, strict=True):
        if mine.requires_grad:
            # The same kernel on the same numbers.
            torch.testing.assert_close(mine.grad, theirs.grad)


@both_ops
def test_one_compiled_graph_serves_all_batches_and_numbers_of_queries(op: Op, form: str) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Op:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend=count)
    # The first sizes are no other dimension's, which torch would take for the same one.
    for batch, queries in ((5, 11), (3, 7), (4, 9)):
        tensors = arguments(
            form, torch.device("cpu"), torch.float32, **SMALL | {"batch": batch, "queries": queries}
        )
        torch.testing.assert_close(compiled(*tensors), op(*tensors))
    assert len(graphs) == 1


@both_ops
def test_export_leaves_batch_and_queries_open(op: Op, form: str) -> None:
    class OneCall(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return op(*tensors)

    batch, queries = torch.export.Dim("batch", min=2), torch.export.Dim("queries", min=2)
    value, sampled = {0: batch}, {0: batch, 1: queries}
    dims = (value, None, None, *([sampled] * (2 if form == "plain" else 3)))
    cpu = torch.device("cpu")
    tensors = arguments(form, cpu, torch.float32, **SMALL | {"batch": 2})
    program = torch.export.export(OneCall(), tensors, dynamic_shapes=(dims,))
    others = arguments(form, cpu, torch.float32, **SMALL | {"batch": 3, "queries": 8})
    torch.testing.assert_close(program.module()(*others), op(*others))


@both_ops
def test_export_keeps_the_op_whole(op: Op, form: str) -> None:
    class OneCall(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return op(*tensors)

    tensors = arguments(form, torch.device("cpu"), torch.float32, **SMALL)
    program = torch.export.export(OneCall(), tensors)
    assert any(
        node.target is getattr(torch.ops.segmeter, op.__name__).default for node in program.graph.nodes
    )
    torch.testing.assert_close(program.module()(*tensors), op(*tensors))


@both_ops
def test_autocast_keeps_pixels_apart(op: Op, form: str, device: torch.device) -> None:
    tensors = arguments(form, device, torch.float32, sizes=[(16, 256)], queries=50, dim=8)
    exact = op(*tensors)
    mixed = list(tensors)
    mixed[0] = mixed[0].bfloat16()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = op(*mixed)
    # The plain op runs in float32; the fused one in autocast's dtype, its offsets kept to 8 bits of a pixel.
    assert output.dtype is (torch.float32 if form == "plain" else torch.bfloat16)
    assert relative_error(output, exact) < 0.02
    # Locations of 8 bits on a map 256 wide would be off by up to half a pixel instead.
    assert (
        relative_error(
            ms_deform_attn(
                *(t.bfloat16() if t.is_floating_point() else t for t in draw([(16, 256)], queries=50).plain())
            ).to(device),
            exact,
        )
        > 0.1
    )


def test_fused_takes_float32_reference_points_beside_half_precision(device: torch.device) -> None:
    value, shapes, starts, points, offsets, logits = arguments("fused", device, torch.float32, **SMALL)
    halves = value.half(), shapes, starts, points, offsets.half(), logits.half()
    expected = ms_deform_attn_fused(value, shapes, starts, points, offsets, logits)
    # 11 bits of each input.
    assert relative_error(ms_deform_attn_fused(*halves), expected) < 5e-3


def test_fused_equals_plain(device: torch.device) -> None:
    fused = ms_deform_attn_fused(*arguments("fused", device, torch.float64, **SMALL))
    plain = ms_deform_attn(*arguments("plain", device, torch.float64, **SMALL))
    # The same sums in float64, in another order.
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12)


def test_counters_know_the_fused_op() -> None:
    leaves = as_leaves(draw(**SMALL).fused())  # type: ignore[arg-type]
    macs = forward_macs(tuple(leaves[0].shape), tuple(leaves[4].shape))
    with FlopCounterMode(display=False) as counter:
        output = ms_deform_attn_fused(*leaves)
    # 1 MAC is 2 FLOPs.
    assert counter.get_total_flops() == 2 * macs
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    # 16 MACs per sampled element backward against 5 forward.
    assert counter.get_total_flops() == 2 * macs * 16 // 5
    assert "segmeter::ms_deform_attn_fused" in fvcore_handles()


def test_meta_tensors_pass_through_both_ops() -> None:
    inputs = draw(**SMALL)  # type: ignore[arg-type]
    for op, tensors in ((ms_deform_attn, inputs.plain()), (ms_deform_attn_fused, inputs.fused())):
        assert op(*(t.to("meta") for t in tensors)).shape == (1, 3, 4)


WRONG = [
    ("plain", 0, lambda t: t[0], "value"),
    ("plain", 1, lambda t: t * 0, "spatial_shapes"),
    ("plain", 1, lambda t: t.to("meta"), "spatial_shapes"),
    ("plain", 2, lambda t: t + 1, "level_start_index"),
    ("plain", 3, lambda t: t.to("meta"), "sampling_locations"),
    ("plain", 3, lambda t: t[..., :0, :], "sampling_locations"),
    ("fused", 3, lambda t: t[:, :1], "reference_points"),
    ("fused", 3, lambda t: t[0], "reference_points"),
    ("fused", 3, lambda t: t.half(), "reference_points"),
    ("fused", 3, lambda t: t.to("meta"), "reference_points"),
    ("fused", 4, lambda t: t[:, :, :1], "offsets"),
    ("fused", 4, lambda t: t.float(), "offsets"),
    ("fused", 5, lambda t: t[..., :1], "logits"),
    ("fused", 5, lambda t: t.flatten(3), "logits"),
    ("fused", 1, lambda t: t + 1, "spatial_shapes"),
]


@pytest.mark.parametrize("choice", ["auto", "reference"])
@pytest.mark.parametrize(("form", "position", "change", "named"), WRONG)
def test_a_wrong_argument_is_named_alike_by_every_implementation(
    choice: str, form: str, position: int, change: Callable[[torch.Tensor], torch.Tensor], named: str
) -> None:
    tensors = list(getattr(draw([(4, 6), (2, 3)]), form)())
    tensors[position] = change(tensors[position])
    op = ms_deform_attn if form == "plain" else ms_deform_attn_fused
    with use_implementation(choice), pytest.raises((ValueError, TypeError)) as error:
        op(*tensors)
    assert str(error.value).startswith(named) and "\n" not in str(error.value)


def test_deterministic_mode_takes_the_cpu_as_it_is() -> None:
    tensors = arguments("plain", torch.device("cpu"), torch.float32, **SMALL)
    torch.use_deterministic_algorithms(True)
    try:
        leaves = as_leaves(tensors)
        ms_deform_attn(*leaves).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert leaves[0].grad.any()

"""Each operator's closed form, on meta and on real tensors alike."""

from collections.abc import Callable
from math import log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from segmeter.cuda_ops import ms_deform_attn_fused
from segmeter.harness.api import count
from segmeter.harness.counting import products
from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.counter import run_and_count


class Calls(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *args: Tensor) -> Any:
        return self.call(*args)


def costs(call: Callable[..., Any], *shapes: tuple[int, ...], device: str = "cpu") -> tuple[int, int]:
    """MACs and FLOPs of a call on tensors of these shapes; nothing may be without a formula."""
    given = [torch.rand(shape, device=device) for shape in shapes]
    _, found = run_and_count(Calls(call), *given)
    assert found.unknown == ()
    return found.macs, found.flops


def norm_layer(x: Tensor) -> Tensor:
    return F.layer_norm(x, (6,))


PRODUCTS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], int, int]] = {
    # name: call, shapes, MACs, operations beyond two for each MAC
    "bilinear": (F.bilinear, [(5, 3), (5, 4), (7, 3, 4)], 5 * 7 * 4 * (3 + 1), 0),
    "addmm": (torch.addmm, [(4, 6), (4, 5), (5, 6)], 4 * 5 * 6, 24),
    "addbmm": (torch.addbmm, [(4, 6), (3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6, 24),
    "addmv": (torch.addmv, [(4,), (4, 5), (5,)], 20, 4),
    "addr": (torch.addr, [(4, 5), (4,), (5,)], 20, 0),
    "mv": (torch.mv, [(4, 5), (5,)], 20, 0),
    "dot": (torch.dot, [(7,), (7,)], 7, 0),
    "bmm": (torch.bmm, [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6, 0),
    "tbc": (torch.conv_tbc, [(9, 2, 3), (5, 3, 4), (4,)], 5 * 2 * 4 * 5 * 3, 5 * 2 * 4),
    # A difference, a square and a sum for each channel of each pair, the last two as one MAC.
    "cdist": (torch.cdist, [(4, 3), (5, 3)], 4 * 5 * 3, 4 * 5 * 3),
    "cdist of many": (torch.cdist, [(40, 3), (50, 3)], 40 * 50 * 3, 40 * 50 * 3),
    # N/2 log2 N butterflies of four multiplications and two complex sums; half for real numbers.
    "fft of real": (torch.fft.rfft, [(3, 8)], 3 * 8 * 3, 3 * 4 * 3),
    "fft of an image": (torch.fft.rfft2, [(2, 4, 8)], 2 * 32 * 5, 2 * 16 * 5),
    "ifft to real": (lambda x: torch.fft.irfft(torch.complex(x, x), n=8), [(3, 5)], 3 * 8 * 3, 3 * 4 * 3),
    "fft of complex": (lambda x: torch.fft.fft(torch.complex(x, x)), [(3, 8)], 2 * 3 * 8 * 3, 3 * 8 * 3),
    "affine grid": (lambda t: F.affine_grid(t, [2, 3, 4, 5], False), [(2, 2, 3)], 2 * 4 * 5 * 2 * 3, 0),
    "bilinear resizing": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        [(1, 2, 3, 4)],
        4 * 96,
        0,
    ),
    "trilinear resizing": (
        lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
        [(1, 2, 3, 4, 5)],
        8 * 960,
        0,
    ),
    "bicubic resizing": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
        [(1, 2, 3, 4)],
        16 * 96,
        0,
    ),
    "bicubic resizing, antialiased": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True),
        [(1, 2, 3, 4)],
        16 * 96,
        0,
    ),
    # Six rows of six around each place.
    "Lanczos resizing": (
        lambda x: torch.ops.aten._upsample_lanczos2d_aa(x, [6, 8], False, None, None),
        [(1, 2, 3, 4)],
        36 * 96,
        0,
    ),
    "linear resizing": (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), [(1, 2, 3)], 2 * 12, 0),
    "grid sampling": (F.grid_sample, [(1, 2, 5, 5), (1, 3, 4, 2)], 4 * 2 * 12, 0),
    "grid sampling in 3-d": (F.grid_sample, [(1, 2, 5, 5, 5), (1, 3, 4, 2, 3)], 8 * 2 * 24, 0),
}


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, device: str) -> None:
    call, shapes, macs, sums = PRODUCTS[name]
    assert costs(call, *shapes, device=device) == (macs, 2 * macs + sums)


N = 2 * 4 * 6 * 6  # elements of (2, 4, 6, 6)
ELEMENTS: dict[str, tuple[Callable[[Tensor], Any], int, int]] = {
    # name: call on (2, 4, 6, 6), MACs, FLOPs
    "softmax": (lambda x: x.softmax(-1), 0, 5 * N),
    "log softmax": (lambda x: x.log_softmax(-1), 0, 5 * N),
    "sigmoid": (torch.sigmoid, 0, 4 * N),
    "sigmoid in place": (lambda x: x.sigmoid_(), 0, 4 * N),
    "log sigmoid": (F.logsigmoid, 0, 4 * N),
    "SiLU": (F.silu, 0, 5 * N),
    "GELU": (F.gelu, 0, 5 * N),
    "GLU": (lambda x: F.glu(x, 1), 0, 5 * N // 2),
    "ReLU": (F.relu, 0, N),
    "threshold in place": (lambda x: F.threshold_(x, 0.1, 0.0), 0, N),
    "hard swish": (F.hardswish, 0, N),
    "mish": (F.mish, 0, N),
    "quantisation": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), 0, 2 * N),
    "PReLU": (lambda x: F.prelu(x, x.new_ones(1)), 0, N),
    "sum": (lambda x: x.sum(1), 0, N),
    "product": (lambda x: x.prod(1), 0, N),
    "running sum": (lambda x: x.cumsum(1), 0, N),
    "mean": (lambda x: x.mean(1), 0, N),
    "vector norm": (lambda x: torch.linalg.vector_norm(x, dim=1), 0, 2 * N),
    "norm": (lambda x: x.norm(), 0, 2 * N),
    "variance": (lambda x: x.var(1), 0, 4 * N),
    "variance and mean": (lambda x: torch.var_mean(x, 1), 0, 4 * N),
    "deviation": (lambda x: x.std(1), 0, 4 * N),
    "log of summed exponentials": (lambda x: x.logsumexp(1), 0, 4 * N),
    "scattered sums": (lambda x: x.scatter_add(1, x.long(), x), 0, N),
    "sums at an index": (lambda x: x.index_add(1, torch.arange(4, device=x.device), x), 0, N),
    "layer norm": (lambda x: F.layer_norm(x, (6,), x.new_ones(6), x.new_ones(6)), 5 * N, 8 * N),
    "layer norm, not affine": (norm_layer, 4 * N, 6 * N),
    "group norm": (lambda x: F.group_norm(x, 2, x.new_ones(4), x.new_ones(4)), 5 * N, 8 * N),
    "group norm, not affine": (lambda x: F.group_norm(x, 2), 4 * N, 6 * N),
    "max pooling": (lambda x: F.max_pool2d(x, 2), 0, N // 4 * 4),
    "max pooling, 3x3": (lambda x: F.max_pool2d(x, 3, 1, 1), 0, 9 * N),
    "max pooling, 1x3": (lambda x: F.max_pool2d(x, (1, 3), 1, (0, 1)), 0, 3 * N),
    "average pooling": (lambda x: F.avg_pool2d(x, 3, 1, 1), 0, 9 * N),
    "average pooling, 1x3": (lambda x: F.avg_pool2d(x, (1, 3), 1, (0, 1)), 0, 3 * N),
    # One side stands for all.
    "a window by one side": (lambda x: torch.ops.aten.avg_pool2d(x, [3], [1], [1]), 0, 9 * N),
    "a window by one side in 3-d": (lambda x: torch.ops.aten.avg_pool3d(x, [3], [1], [1]), 0, 27 * N),
    "max pooling in 3-d": (lambda x: F.max_pool3d(x, 2), 0, N // 8 * 8),
    "average pooling in 3-d": (lambda x: F.avg_pool3d(x, 3, 1, 1), 0, 27 * N),
    "pooling to 3x3": (lambda x: F.adaptive_avg_pool2d(x, 3), N, N),
    "pooling to 2x3x3": (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 3)), N, N),
    "maximum of 3x3": (lambda x: F.adaptive_max_pool2d(x, 3), 0, N),
    "maximum of 2x3x3": (lambda x: F.adaptive_max_pool3d(x, (2, 3, 3)), 0, N),
    "nearest resizing": (lambda x: F.interpolate(x, scale_factor=2), 4 * N, 0),
    "nearest resizing, exact": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"), 4 * N, 0),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_work_of_each_element(name: str, device: str) -> None:
    call, macs, flops = ELEMENTS[name]
    assert costs(call, (2, 4, 6, 6), device=device) == (macs, flops)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("affine", "macs"), [(True, 2), (False, 1)])
def test_batch_norm_in_eval_mode_is_a_product_and_a_sum(affine: bool, macs: int, device: str) -> None:
    norm = nn.BatchNorm2d(4, affine=affine).eval().to(device)
    _, found = run_and_count(norm, torch.zeros(2, 4, 6, 6, device=device))
    assert (found.macs, found.flops) == (macs * N, 2 * N)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("affine", "macs", "flops"), [(True, 5, 8), (False, 4, 6)])
def test_norms_that_look_at_the_input_are_group_norms(
    affine: bool, macs: int, flops: int, device: str
) -> None:
    for norm in (nn.InstanceNorm2d(4, affine=affine), nn.BatchNorm2d(4, affine=affine).train()):
        _, found = run_and_count(norm.to(device), torch.rand(2, 4, 6, 6, device=device))
        # Batch norm in training mode also counts its batches, in whole numbers.
        assert (found.macs, found.flops) == (macs * N, flops * N)


def test_a_cosine_a_normalisation_and_a_distance_have_formulas() -> None:
    for call in (F.cosine_similarity, F.pairwise_distance, torch.dist, torch.linalg.cross, torch.outer):
        shapes = [(3,), (3,)] if call is torch.outer else [(5, 3), (5, 3)]
        assert costs(call, *shapes)[1] > 0
    assert costs(F.normalize, (5, 3))[1] > 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("kind", "gates", "cell"), [(nn.LSTM, 4, 22), (nn.GRU, 3, 16), (nn.RNN, 1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_cost_the_same_on_every_device(
    kind: Any, gates: int, cell: int, bias: bool, device: str
) -> None:
    layer = kind(16, 8, num_layers=2, bidirectional=True, bias=bias).to(device)
    _, found = run_and_count(layer, torch.zeros(5, 3, 16, device=device))
    steps, directions = 5 * 3, 2
    # Inputs 16, then both directions' 8; the recurrent matrix is 8 x 8.
    macs = steps * directions * gates * 8 * ((16 + 8) + (16 + 8))
    biases = 2 * 2 * directions * gates * 8 * steps if bias else 0
    assert found.unknown == ()
    assert (found.macs, found.flops) == (macs, 2 * macs + biases + 2 * directions * steps * 8 * cell)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_projected_lstm_is_counted(device: str) -> None:
    layer = nn.LSTM(16, 8, proj_size=4).to(device)
    _, found = run_and_count(layer, torch.zeros(5, 3, 16, device=device))
    assert found.macs == 15 * (4 * 8 * 16 + 4 * 8 * 4 + 4 * 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weight_norm_is_counted_on_every_device(device: str) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(16, 8, bias=False)).to(device)
    _, found = run_and_count(layer, torch.zeros(3, 16, device=device))
    assert found.unknown == ()
    # The product; then square, sum and product for each weight, a quotient for each row.
    assert (found.macs, found.flops) == (3 * 16 * 8, 2 * 3 * 16 * 8 + 3 * 16 * 8 + 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_deformable_convolution_is_its_samples_and_a_convolution(masked: bool, device: str) -> None:
    layer = torchvision.ops.DeformConv2d(4, 6, 3, padding=1).to(device)
    given = [torch.rand(2, channels, 5, 5, device=device) for channels in (4, 18, 9)[: 3 if masked else 2]]
    _, found = run_and_count(layer, *given)
    samples = 2 * 25 * 9 * 4
    assert found.unknown == ()
    assert found.macs == samples * 4 + (samples if masked else 0) + samples * 6


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_integer_and_half_precision_products_count_as_products(device: str) -> None:
    whole = [torch.zeros(s, dtype=torch.int8, device=device) for s in ((32, 16), (16, 24))]
    _, found = run_and_count(Calls(torch._int_mm), *whole)
    assert (found.macs, found.unknown) == (32 * 16 * 24, ())
    half = [torch.zeros(s, dtype=torch.bfloat16, device=device) for s in ((32, 16), (16, 24))]
    _, found = run_and_count(Calls(torch.mm), *half)
    assert (found.macs, found.activation_bytes) == (32 * 16 * 24, 2 * 32 * 24)


def test_a_grouped_product_is_the_products_of_its_groups() -> None:
    left = torch.zeros(48, 16, dtype=torch.bfloat16)
    right = torch.zeros(3, 16, 24, dtype=torch.bfloat16)
    offsets = torch.tensor([16, 32, 48], dtype=torch.int32)

    def grouped(device: str) -> int:
        given = [x.to(device) for x in (left, right, offsets)]
        _, found = run_and_count(Calls(lambda a, b, o: torch._grouped_mm(a, b, offs=o)), *given)
        assert found.unknown == ()
        return found.macs

    assert grouped("cpu") == grouped("meta") == 48 * 16 * 24


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_products_cost_what_is_stored() -> None:
    dense = torch.zeros(6, 8)
    dense[0, 1] = dense[3, 4] = dense[3, 5] = 1.0
    right = torch.zeros(8, 5)
    for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
        _, found = run_and_count(Calls(torch.mm), sparse, right)
        assert (found.macs, found.unknown) == (3 * 5, ())
        _, found = run_and_count(Calls(torch.addmm), torch.zeros(6, 5), sparse, right)
        assert (found.macs, found.flops) == (3 * 5, 2 * 3 * 5 + 30)
    _, found = run_and_count(Calls(torch.sparse.mm), dense.to_sparse(), dense.mT.to_sparse())
    # Columns 1, 4 and 5 of the left have one entry each, as the rows of its transpose do.
    assert (found.macs, found.unknown) == (3, ())


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantised_model_counts_as_the_one_it_was() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))
    plain = count(model, (3, 16))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    found = count(quantised, torch.zeros(3, 16))
    assert (found.macs, found.flops, found.not_counted) == (plain.macs, plain.flops, {})


MOVERS: list[Callable[[Tensor], Any]] = [
    lambda x: x.unsafe_split(2, 1),
    lambda x: x.unsafe_chunk(2, 1),
    lambda x: x.transpose_(0, 1),
    lambda x: x.t_() if x.dim() == 2 else x.squeeze_(0).unsqueeze_(0),
    lambda x: torch.isin(x, x),
    lambda x: torch.permute_copy(x, (1, 0, 2, 3)),
    lambda x: x.diag_embed(),
    lambda x: x.rot90(1, (2, 3)),
    lambda x: x.median(1),
    lambda x: x.kthvalue(1, 1),
    lambda x: x.cummax(1),
    lambda x: x.count_nonzero(),
    lambda x: torch.bucketize(x, torch.arange(3.0, device=x.device)),
    lambda x: x.tril_(),
    lambda x: F.channel_shuffle(x, 2),
    lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    lambda x: torch.complex(x, x),
    lambda x: x.take(torch.zeros(3, dtype=torch.long, device=x.device)),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_only_moves_is_free_and_no_alarm(device: str) -> None:
    for call in MOVERS:
        assert costs(call, (2, 4, 6, 6), device=device) == (0, 0)


def test_a_profiler_s_marks_are_free() -> None:
    def marked(x: Tensor) -> Tensor:
        with torch.profiler.record_function("here"):
            return x.clone()

    assert costs(marked, (2, 3)) == (0, 0)


def test_an_operator_of_unknown_cost_leaves_no_percentage_and_keeps_its_name() -> None:
    _, found = run_and_count(Calls(lambda x: torch.linalg.inv_ex(x @ x)[0]), torch.eye(3))
    figures = apply_convention(found, lambda path: path, "macs")
    assert figures.coverage is None and figures.total == 27
    assert figures.not_counted == {"aten::linalg_inv_ex": None}


def test_the_weights_of_a_fourier_transform_are_those_of_radix_2() -> None:
    for size in (16, 64, 100):
        macs, flops = costs(lambda x: torch.fft.fft(torch.complex(x, x)), (size,))
        assert macs == round(2 * size * log2(size)) and flops == round(5 * size * log2(size))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_fused_deformable_op_costs_its_samples_a_softmax_and_two_operations_a_coordinate(
    device: str,
) -> None:
    batch, queries, heads, levels, points, channels = 2, 5, 2, 1, 3, 4
    value = torch.zeros(batch, 6, heads, channels, device=device)
    sizes, starts = torch.tensor([[2, 3]]), torch.tensor([0])
    points_at = torch.zeros(batch, queries, levels, 2, device=device)
    offsets = torch.zeros(batch, queries, heads, levels, points, 2, device=device)
    logits = torch.zeros(batch, queries, heads, levels, points, device=device)
    _, found = run_and_count(Calls(ms_deform_attn_fused), value, sizes, starts, points_at, offsets, logits)
    samples = batch * queries * heads * levels * points
    assert found.unknown == ()
    assert {w.operator: (w.macs, w.flops) for w in found.work} == {
        "deform_sampling": (4 * samples * channels, 8 * samples * channels),
        "deform_weighting": (samples * channels, 2 * samples * channels),
        "softmax": (0, 5 * samples),
        # A division by the level's size and an addition to the reference point, for x and for y.
        "elementwise": (0, 2 * 2 * samples),
    }


def test_attention_is_two_products_and_a_softmax_of_its_scores() -> None:
    # 2 images, 6 heads of queries on 2 of keys: 5 x 7 scores each over 8 channels, values of 3.
    pairs = 2 * 6 * 5 * 7
    expected = [
        ("attention_scores", pairs * 8, 2 * pairs * 8),
        ("softmax", 0, 5 * pairs),
        ("attention_values", pairs * 3, 2 * pairs * 3),
    ]
    found = products.attention_costs((2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 3))
    assert [(cost.operator, cost.macs, cost.flops) for cost in found] == expected
    # Without images: heads alone.
    (scores, *_) = products.attention_costs((6, 5, 8), (2, 7, 8), (2, 7, 3))
    assert scores.macs == 6 * 5 * 7 * 8


def test_a_product_added_to_another_sums_over_its_own_left_matrix() -> None:
    found = costs(torch.baddbmm, (3, 4, 6), (3, 4, 5), (3, 5, 6))
    # Three products of (4, 5) with (5, 6), and one addition for each of their outputs, as addmm has.
    macs = 3 * 4 * 5 * 6
    assert found == (macs, 2 * macs + 3 * 4 * 6)


def test_a_sparse_matrix_on_either_side_costs_what_it_stores() -> None:
    sparse = torch.zeros(6, 8)
    sparse[0, 1] = sparse[3, 4] = sparse[3, 5] = 1.0
    dense, out = torch.zeros(9, 6), torch.zeros(9, 8)
    for right in (sparse.to_sparse(), sparse.to_sparse_csr()):
        assert products._product_macs(dense, right, out) == 3 * 9
        assert products._product_macs(right, torch.zeros(8), torch.zeros(6)) == 3
    assert products._product_macs(dense, sparse, out) == 9 * 6 * 8


@pytest.mark.parametrize(
    ("formula", "mode", "hidden", "layers", "both_ways", "length"),
    [(products.cudnn_recurrent, 6, 7, 9, 13, 16), (products.miopen_recurrent, 5, 6, 7, 11, 14)],
)
def test_recurrent_layers_on_a_gpu_cost_what_they_do_elsewhere(
    formula: Any, mode: int, hidden: int, layers: int, both_ways: int, length: int
) -> None:
    for directions in (1, 2):
        layer = nn.LSTM(16, 8, num_layers=2, bidirectional=directions == 2)
        inputs = torch.zeros(5, 3, 16)
        _, here = run_and_count(layer, inputs)
        args: list[Any] = [None] * length
        args[0], args[1] = inputs, [weight.detach() for weight in layer.parameters()]
        args[mode], args[hidden], args[layers], args[both_ways] = 2, 8, 2, directions == 2
        found = formula(args, None)
        assert sum(cost.macs for cost in found) == here.macs
        assert sum(cost.flops for cost in found) == here.flops
        # Four gates of 8 by two matrices at each step, layer and direction.
        assert found[0].written == 15 * 2 * directions * 2 * 4 * 8

"""What convolutions, matrix products, attention and their like cost, from shapes alone.

One multiply-accumulate is 1 MAC and 2 FLOPs; a bias or a sum with another matrix is 1 FLOP for each output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmeter.cuda_ops import formulas

Shape = Sequence[int]


@dataclass(frozen=True)
class Cost:
    """Cost of one call under one operator name; see :mod:`harness.counting.op_costs` for the units.

    ``written`` are the elements that it writes, where these are others than its output's.
    """

    operator: str
    macs: int
    flops: int
    written: int | None = None


def conv_macs(weight: Shape, output: Shape) -> int:
    """MACs of a convolution: every output element sums over the weight's (C_in/groups, kH, kW).

    >>> conv_macs((8, 3, 3, 3), (1, 8, 10, 10))  # 800 outputs * 27
    21600
    """
    return prod(output) * prod(weight[1:])


def transposed_conv_macs(weight: Shape, inputs: Shape) -> int:
    """MACs of a transposed convolution: every input element feeds the weight's (C_out/groups, kH, kW)."""
    return prod(inputs) * prod(weight[1:])


def matmul_macs(left: Shape, output: Shape) -> int:
    """MACs of (batched) matrix products: every output element sums over the left's last dimension.

    >>> matmul_macs((4, 6), (4, 5))  # 20 outputs * 6
    120
    """
    return prod(output) * left[-1]


def attention_costs(query: Shape, key: Shape, value: Shape) -> list[Cost]:
    """Cost of scaled dot-product attention: both products and the softmax between them.

    Args:
        query: (..., Q, D). key: (..., K, D). value: (..., K, E).
    """
    batch = prod(np.broadcast_shapes(tuple(query[:-2]), _grouped(query, key)))
    return attention_products(batch * query[-2] * key[-2], query[-1], value[-1])


def attention_products(scores: int, channels: int, value_channels: int) -> list[Cost]:
    """Cost of attention by the number of its scores: both products and the softmax between them."""
    query_key, weights_value = scores * channels, scores * value_channels
    return [
        Cost("attention_scores", query_key, 2 * query_key),
        Cost("softmax", 0, 5 * scores),
        Cost("attention_values", weights_value, 2 * weights_value),
    ]


def _grouped(query: Shape, key: Shape) -> tuple[int, ...]:
    """Batch dimensions of the keys; grouped-query attention repeats them up to the queries' heads."""
    batch = tuple(key[:-2])
    if len(batch) == len(query) - 2 and batch and batch[-1] != query[-3]:
        return (*batch[:-1], query[-3])
    return batch


def multiplied(operator: str, macs: int, sums: int = 0) -> list[Cost]:
    """Multiply-accumulates under one name, and the additions that come on top."""
    return [Cost(operator, macs, 2 * macs + sums)]


def shape(x: Any) -> tuple[int, ...]:
    """A tensor's shape as plain numbers."""
    return tuple(x.shape)


def _stored(x: Tensor) -> int:
    """Elements that take part in a product: all of a dense matrix, those written down of a sparse one."""
    if x.layout == torch.strided:
        return x.numel()
    return (x._values() if x.layout == torch.sparse_coo else x.values()).numel()


def _product_macs(left: Tensor, right: Tensor, out: Any) -> int:
    """MACs of a product of two matrices, either of which may be sparse."""
    if left.layout != torch.strided:
        return _stored(left) * (right.shape[-1] if right.dim() > 1 else 1)
    if right.layout != torch.strided:
        return _stored(right) * left.shape[-2]
    return matmul_macs(shape(left), shape(out))


def convolution(args: Any, out: Any) -> list[Cost]:
    """A convolution (input, weight, bias, stride, padding, dilation, transposed, ...)."""
    inputs, weight = args[0], args[1]
    biased_outputs = out.numel() if isinstance(args[2], Tensor) else 0
    transposed = args[6] if len(args) > 6 else False
    if transposed is True:
        return multiplied("conv", transposed_conv_macs(shape(weight), shape(inputs)), biased_outputs)
    return multiplied("conv", conv_macs(shape(weight), shape(out)), biased_outputs)


def time_convolution(args: Any, out: Any) -> list[Cost]:
    """conv_tbc: input (T, B, C_in), weight (k, C_in, C_out), bias."""
    return multiplied("conv", out.numel() * prod(args[1].shape[:2]), out.numel())


def quantised_convolution(args: Any, out: Any) -> list[Cost]:
    """A quantised convolution (input, packed weight and bias, ...)."""
    weight, bias = args[1].unpack()[:2]
    return multiplied("conv", conv_macs(shape(weight), shape(out)), 0 if bias is None else out.numel())


def quantised_linear(args: Any, out: Any) -> list[Cost]:
    """A quantised linear layer (input, packed weight and bias, ...)."""
    bias = args[1].unpack()[1]
    return multiplied("linear", matmul_macs(shape(args[0]), shape(out)), 0 if bias is None else out.numel())


def linear(args: Any, out: Any) -> list[Cost]:
    """A linear layer that is one operator (input, weight, bias)."""
    biased_outputs = out.numel() if len(args) > 2 and isinstance(args[2], Tensor) else 0
    return multiplied("linear", matmul_macs(shape(args[0]), shape(out)), biased_outputs)


def addmm(args: Any, out: Any) -> list[Cost]:
    """A sum and a matrix product (sum, left, right)."""
    return multiplied("linear", _product_macs(args[1], args[2], out), out.numel())


def mm(args: Any, out: Any) -> list[Cost]:
    """A matrix product (left, right)."""
    return multiplied("linear", _product_macs(args[0], args[1], out))


def plain_mm(args: Any, out: Any) -> list[Cost]:
    """A matrix product whose right side is packed in some way."""
    return multiplied("linear", matmul_macs(shape(args[0]), shape(out)))


def half_mm(args: Any, out: Any) -> list[Cost]:
    """A linear layer whose weight keeps two of every four elements (input, weight, places, ...)."""
    return multiplied("linear", matmul_macs(shape(args[0]), shape(out)) // 2)


def packed_half_mm(args: Any, out: Any) -> list[Cost]:
    """A product whose left side keeps two of every four elements (kept ones (M, K/2), places, right)."""
    return multiplied("linear", args[0].numel() * args[2].shape[-1])


def compressed_mm(args: Any, out: Any) -> list[Cost]:
    """As :func:`packed_half_mm`, by cuSPARSELt (packed left, right (K, N), ...)."""
    return multiplied("linear", out.numel() * args[1].shape[0] // 2)


def sparse_mm(args: Any, out: Any) -> list[Cost]:
    """A product of two sparse matrices: entries of the left's column k meet those of the right's row k."""
    left, right = (x.to_sparse_coo().coalesce().indices() for x in args[:2])
    inner = args[0].shape[-1]
    met = torch.bincount(left[1], minlength=inner) * torch.bincount(right[0], minlength=inner)
    return multiplied("linear", int(met.sum()))


def bmm(args: Any, out: Any) -> list[Cost]:
    """Matrix products, one for each entry of a batch (left, right)."""
    return multiplied("matmul", _product_macs(args[0], args[1], out))


def baddbmm(args: Any, out: Any) -> list[Cost]:
    """Matrix products added to another batch of matrices (sum, left, right)."""
    return multiplied("matmul", matmul_macs(shape(args[1]), shape(out)), out.numel())


def addbmm(args: Any, out: Any) -> list[Cost]:
    """Matrix products all added up (sum, left (B, N, M), right (B, M, P)): inner dimension B x M."""
    return multiplied("matmul", out.numel() * args[1].shape[0] * args[1].shape[2], out.numel())


def vector_product(args: Any, out: Any) -> list[Cost]:
    """A vector with a matrix or another vector."""
    return multiplied("matmul", _stored(args[0]))


def addmv(args: Any, out: Any) -> list[Cost]:
    """A sum and a matrix with a vector (sum, matrix, vector)."""
    return multiplied("matmul", _stored(args[1]), out.numel())


def addr(args: Any, out: Any) -> list[Cost]:
    """A sum and an outer product (sum, left, right): one product and one addition for each output."""
    return multiplied("matmul", out.numel())


def grouped_mm(args: Any, out: Any) -> list[Cost]:
    """A product for each group (left, right, ...); two matrices (M, K), (K, N) are cut along K."""
    left, right = args[0], args[1]
    macs = (
        left.numel() * right.shape[-1]
        if left.dim() == right.dim() == 2
        else matmul_macs(left.shape, out.shape)
    )
    return multiplied("matmul", macs)


def sampled_mm(args: Any, out: Any) -> list[Cost]:
    """A sum and a dense product at the places of a sparse matrix (sparse sum, left, right)."""
    stored = _stored(args[0])
    return multiplied("matmul", stored * args[1].shape[-1], stored)


def trilinear(args: Any, out: Any) -> list[Cost]:
    """What bilinear layers run: first with second, then with third, summed as early as may be.

    A bilinear layer from (B, I) and (B, J) to (B, O) is B x O x J x (I + 1).
    """
    one, two, three = (_expanded(x, at) for x, at in zip(args[:3], args[3:6], strict=True))
    summed = args[6]
    pairs = [max(a, b) for a, b in zip(one, two, strict=True)]
    kept = [1 if d in summed and three[d] == 1 else side for d, side in enumerate(pairs)]
    triples = [max(a, b) for a, b in zip(kept, three, strict=True)]
    return multiplied("matmul", prod(pairs) + prod(triples))


def _expanded(x: Tensor, at: Sequence[int]) -> list[int]:
    sides = list(x.shape)
    for place in sorted(at):
        sides.insert(place, 1)
    return sides


def distance(args: Any, out: Any) -> list[Cost]:
    """Distances of all pairs of points (D channels): a difference and a multiply-accumulate a channel."""
    macs = out.numel() * args[0].shape[-1]
    return [Cost("distance", macs, 3 * macs)]


def complex_fourier(args: Any, out: Any) -> list[Cost]:
    """A complex Fourier transform (input, dimensions, ...) of N elements, by radix 2.

    N/2 x log2 N butterflies, each a complex product (4 multiplications) and two complex additions: 2 N log2 N
    multiply-accumulates and 5 N log2 N operations, FFTW's convention. A real one is half of it.
    """
    return _fourier(shape(out), args[1])


def real_fourier(args: Any, out: Any) -> list[Cost]:
    """A Fourier transform of real numbers (input, dimensions, ...)."""
    return _fourier(shape(args[0]), args[1], 0.5)


def inverse_real_fourier(args: Any, out: Any) -> list[Cost]:
    """A Fourier transform to real numbers (input, dimensions, ...)."""
    return _fourier(shape(out), args[1], 0.5)


def _fourier(sides: Shape, dimensions: Sequence[int], share: float = 1.0) -> list[Cost]:
    steps = share * prod(sides) * log2(prod(sides[d] for d in dimensions))
    return [Cost("fft", round(2 * steps), round(5 * steps))]


def fused_attention(args: Any, out: Any) -> list[Cost]:
    """Attention that is one operator (query, key, value, ...), (B, H, L, D) each."""
    return attention_costs(*(shape(x) for x in args[:3]))


def flash_attention(args: Any, out: Any) -> list[Cost] | None:
    """As :func:`fused_attention`, with (B, L, H, D) each; None where sequences are packed into one."""
    if args[0].dim() != 4:
        return None
    return attention_costs(*((x.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in args[:3]))


def deformable(args: Any, out: Any) -> list[Cost]:
    """segmeter::ms_deform_attn."""
    elements = formulas.sampled_elements(shape(args[0]), shape(args[3]))
    return multiplied("deform_sampling", formulas.sampling_macs(elements)) + multiplied(
        "deform_weighting", formulas.weighting_macs(elements)
    )


def deformable_fused(args: Any, out: Any) -> list[Cost]:
    """segmeter::ms_deform_attn_fused."""
    offsets, logits = shape(args[4]), shape(args[5])
    elements = formulas.sampled_elements(shape(args[0]), offsets)
    # What the plain op leaves to torch: a softmax, and a division and an addition for each coordinate.
    return [
        *multiplied("deform_sampling", formulas.sampling_macs(elements)),
        *multiplied("deform_weighting", formulas.weighting_macs(elements)),
        Cost("softmax", 0, 5 * prod(logits)),
        Cost("elementwise", 0, 2 * prod(offsets)),
    ]


def deformable_convolution(args: Any, out: Any) -> list[Cost]:
    """torchvision::deform_conv2d (input, weight, offset, mask, bias, ...): samples, then a convolution.

    Every place of the output samples kernel area x C_in elements bilinearly, and weights them with the mask.
    """
    inputs, weight, masked = args[0], args[1], args[13]
    samples = out.shape[0] * prod(out.shape[2:]) * inputs.shape[1] * prod(weight.shape[2:])
    weighting = formulas.weighting_macs(samples) if masked else 0
    # Names of their own: the papers' tool sees neither, while it sees every other convolution.
    return [
        *multiplied("deform_conv_sampling", formulas.sampling_macs(samples) + weighting),
        *multiplied("deform_conv", conv_macs(shape(weight), shape(out)), out.numel()),
    ]


# Elementwise operations of a cell for each of its hidden channels, by torch's number of the mode: ReLU, tanh
# (a sum of both products, the activation), LSTM (4 sums, 3 sigmoids, 2 tanh, 4 products and sums), and GRU
# (2 sums, 2 sigmoids, a product, a sum, a tanh, 3 to mix).
_CELL = (2, 2, 22, 16)


def recurrent(args: Any, out: Any) -> list[Cost]:
    """One layer in one direction, as oneDNN runs it (input, four weights, hidden, cell, ...)."""
    inputs, weights, mode, hidden, has_biases = args[0], args[1:5], args[9], args[10], args[12]
    return _recurrent(inputs, weights[: 4 if has_biases else 2], mode, hidden)


def cudnn_recurrent(args: Any, out: Any) -> list[Cost]:
    """All layers and directions, as cuDNN runs them (input, weights, ...)."""
    return _recurrent(args[0], args[1], args[6], args[7], args[9] * (2 if args[13] else 1))


def miopen_recurrent(args: Any, out: Any) -> list[Cost]:
    """All layers and directions, as MIOpen runs them (input, weights, ...)."""
    return _recurrent(args[0], args[1], args[5], args[6], args[7] * (2 if args[11] else 1))


def _recurrent(
    inputs: Tensor, weights: Sequence[Tensor], mode: int, hidden: int, cells: int = 1
) -> list[Cost]:
    """Every matrix is applied at every step, every bias added to its product."""
    steps = prod(inputs.shape[:-1])
    matrices = sum(w.numel() for w in weights if w.dim() == 2)
    biases = sum(w.numel() for w in weights if w.dim() == 1)
    macs = steps * matrices
    # Where torch runs the products one by one, each is written.
    written = steps * sum(w.shape[0] for w in weights if w.dim() == 2)
    return [
        Cost("linear", macs, 2 * macs + steps * biases, written),
        Cost("elementwise", 0, steps * cells * hidden * _CELL[mode]),
    ]


def fused_cell(mode: int) -> Any:
    """The elementwise part of a cell whose products are done (input's, hidden's, state, biases)."""

    def cost(args: Any, out: Any) -> list[Cost]:
        biases = sum(args[0].shape[-1] for b in args[3:5] if isinstance(b, Tensor))
        steps = prod(args[0].shape[:-1])
        return [Cost("elementwise", 0, steps * (args[2].shape[-1] * _CELL[mode] + biases))]

    return cost

"""What the deformable-attention op is timed on: the encoders' real shapes, and the bytes they move."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segmeter.harness.op.shapes import SHAPES

HEADS, HEAD_DIM, POINTS = 8, 32, 4
# Offsets from the reference point, in pixels of the level sampled: heads look 1 to 4 pixels away at the
# start of training, and about as far in trained encoders.
OFFSET_PIXELS = 3.0
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Case:
    """One problem to time."""

    shape: str
    places: str
    direction: str
    dtype: str


@dataclass(frozen=True)
class Problem:
    """The tensors of one case, of batch 1: what the plain and the fused op take."""

    value: Tensor
    shapes: Tensor
    starts: Tensor
    points: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor

    def plain(self) -> tuple[Tensor, ...]:
        """Arguments of :func:`cuda_ops.ms_deform_attn`."""
        return self.value, self.shapes, self.starts, self.locations, self.weights

    def fused(self) -> tuple[Tensor, ...]:
        """Arguments of :func:`cuda_ops.ms_deform_attn_fused`."""
        return self.value, self.shapes, self.starts, self.points, self.offsets, self.logits


def draw_problem(case: Case, device: torch.device) -> Problem:
    """Random inputs of a case, the same on every machine."""
    sizes, queries = SHAPES[case.shape]
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor(sizes)
    counts = shapes.prod(1)
    tokens = int(counts.sum())
    queries = tokens if queries is None else queries
    centres = torch.cat([_centres(height, width) for height, width in sizes])
    # Fewer queries than tokens: the first ones, as in Lite-M2F; a decoder's look anywhere.
    points = centres[:queries].view(1, queries, 1, 2)
    places = (1, queries, HEADS, len(sizes), POINTS, 2)
    if case.places == "uniform" or case.shape.startswith("decoder"):
        points = torch.rand(1, queries, 1, 2, generator=generator)
    offsets = torch.randn(places, generator=generator) * OFFSET_PIXELS
    if case.places == "uniform":
        scale = shapes.flip(-1)[:, None]
        offsets = (torch.rand(places, generator=generator) - points[:, :, None, :, None]) * scale
    logits = torch.randn(places[:-1], generator=generator)
    kind: Any = {"device": device, "dtype": DTYPES[case.dtype]}
    return Problem(
        value=torch.randn(1, tokens, HEADS, HEAD_DIM, generator=generator).to(**kind),
        shapes=shapes.to(device),
        starts=torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]]).to(device),
        points=points.to(device),
        offsets=offsets.to(**kind),
        logits=logits.to(**kind),
        locations=(points[:, :, None, :, None] + offsets / shapes.flip(-1)[:, None]).to(**kind),
        weights=logits.flatten(3).softmax(-1).view(logits.shape).to(**kind),
    )


def _centres(height: int, width: int) -> Tensor:
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def bytes_moved(problem: Problem, direction: str) -> int:
    """Bytes that a pass must move at the least: each input read once, each output written once.

    Of value only the rows that the samples can touch, 4 each. Backward also reads the output's gradient and
    writes one gradient for each input of the forward pass, all of value's.
    """
    _, tokens, heads, dim = problem.value.shape
    size = problem.value.element_size()
    row = dim * size
    value = min(tokens * heads, 4 * problem.weights.numel()) * row
    places = problem.locations.nbytes + problem.weights.nbytes
    output = problem.locations.shape[1] * heads * row
    if direction == "forward":
        return value + places + output
    return value + problem.value.nbytes + 2 * places + output

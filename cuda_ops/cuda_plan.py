"""What one launch of the CUDA kernels is passed, and how its blocks lie over queries, batch and heads."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from segmeter.cuda_ops.cuda_build import LOAD_BYTES, Kind, choose_kind
from segmeter.cuda_ops.geometry import known_sizes

# Of a grid, on every GPU: tiles, items of the batch, heads.
MAX_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
# They are counted in 32 bits, some beyond the last one in the last tile.
MAX_QUERIES = 2**31 - 2**12
# Maps so narrow that their edges cut more tiles than this, over those in order, are not worth it.
MOST_TILES = 1.5
BY_VALUE = 16  # kByValue of csrc/gpu.cu
INPUTS = ("value", "shapes", "starts", "places", "weights", "reference")

Sizes = tuple[tuple[int, int], ...]


class Level(ctypes.Structure):
    """``Level`` of csrc/gpu.cu."""

    _fields_ = (("height", ctypes.c_int), ("width", ctypes.c_int), ("start", ctypes.c_int))


class QueryMap(ctypes.Structure):
    """``QueryMap`` of csrc/gpu.cu."""

    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in ("height", "width", "first_query", "first_tile", "tiles_across", "tokens")
    )


class Layout(ctypes.Structure):
    """``Layout`` of csrc/gpu.cu."""

    _fields_ = (("maps", ctypes.c_int), ("levels", Level * BY_VALUE), ("map", QueryMap * BY_VALUE))


class Problem(ctypes.Structure):
    """``Problem`` of csrc/gpu.cu, field by field."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("value", "shapes", "starts", "places", "weights", "reference"),
                *("grad_output", "output", "grad_value", "grad_places", "grad_weights"),
            )
        ),
        *((name, ctypes.c_longlong) for name in ("queries", "tokens")),
        *((name, ctypes.c_int) for name in ("reference_batches", "reference_levels")),
        ("layout", Layout),
    )


@dataclass(frozen=True)
class Plan:
    """One launch, all but the device: what is passed, and on how many blocks.

    Attributes:
        kind: the build that serves the call.
        grid: blocks of ``kind.threads`` threads: tiles of queries, items of the batch, heads.
        problem: the kernels' one argument.
        tensors: what ``problem`` points to; they must live until the launch.
    """

    kind: Kind
    grid: tuple[int, int, int]
    problem: Problem
    tensors: dict[str, Tensor]


def kind_of(value: Tensor, places: Tensor, *, fused: bool) -> Kind | None:
    """The kind of one call; None where a query has too many samples."""
    return choose_kind(
        value.dtype, value.shape[2], value.shape[3], places.shape[3], places.shape[4], fused=fused
    )


def refusal_of_size(places: Tensor, kind: Kind | None) -> str:
    """Why a call of this kind cannot be launched for its size, or an empty string."""
    batch, queries, heads, levels, points = places.shape[:5]
    if kind is None:
        return (
            f"{levels * points} samples per query and head on {levels} levels "
            "are more than a block of threads can hold"
        )
    if queries > MAX_QUERIES or batch > MAX_GRID[1] or heads > MAX_GRID[2]:
        return f"batch, queries and heads, {batch} x {queries} x {heads}, are more than one launch can take"
    return ""


def plan(inputs: Sequence[Tensor | None], results: Mapping[str, Tensor]) -> Plan:
    """Lay out one launch.

    Args:
        inputs: the tensors named in :data:`INPUTS`, any strides; None where there are no reference points.
        results: ``grad_output`` and the contiguous tensors that the kernel fills, by their names in Problem.
    """
    value, shapes, starts, places, weights, reference = inputs
    assert value is not None and shapes is not None and starts is not None and places is not None
    sizes = known_sizes(shapes) if shapes.shape[0] <= BY_VALUE else None
    if sizes is not None:
        # They travel with the launch; a captured graph needs neither tensor.
        shapes = starts = None
    of_reference = None if reference is None else reference.shape
    kind, grid, fixed = _fixed(value.dtype, value.shape, places.shape, of_reference, sizes)
    problem = Problem.from_buffer_copy(fixed)
    tensors = dict(results)
    for name, tensor in zip(INPUTS, (value, shapes, starts, places, weights, reference), strict=True):
        if tensor is not None:
            tensors[name] = for_wide_loads(tensor)
    for name, tensor in tensors.items():
        setattr(problem, name, tensor.data_ptr())
    return Plan(kind, grid, problem, tensors)


@lru_cache(maxsize=1024)
def _fixed(
    dtype: torch.dtype,
    value: torch.Size,
    places: torch.Size,
    reference: torch.Size | None,
    sizes: Sizes | None,
) -> tuple[Kind, tuple[int, int, int], bytes]:
    """What all calls of these shapes have alike: the kind, the grid, and the problem without addresses."""
    batch, queries, heads, levels, points = places[:5]
    kind = choose_kind(dtype, heads, value[3], levels, points, fused=reference is not None)
    assert kind is not None, "refusal() sends such calls to the reference"
    layout, tiles = lay_out(sizes, queries, kind.tile)
    problem = Problem(
        queries=queries,
        tokens=value[1],
        reference_batches=1 if reference is None else reference[0],
        reference_levels=1 if reference is None else reference[2],
        layout=layout,
    )
    return kind, (tiles, batch, heads), bytes(problem)


def lay_out(sizes: Sizes | None, queries: int, tile: tuple[int, int]) -> tuple[Layout, int]:
    """The levels, and the queries' maps cut into tiles (rows, columns); and how many tiles there are.

    An encoder's queries are the tokens of its first levels, or of all: then a tile holds neighbours on the
    map. Any other queries, and all where the sizes are not known, are tiled in the order they come in, as if
    they lay on one map as wide as a tile.
    """
    columns = tile[1]
    layout = Layout()
    starts, in_order = 0, [(-(-queries // columns), columns)]
    maps = in_order
    for number, (height, width) in enumerate(sizes or ()):
        layout.levels[number] = Level(height, width, starts)
        starts += height * width
        if starts == queries and sizes is not None:
            maps = list(sizes[: number + 1])
    if _tiles(maps, tile) > MOST_TILES * _tiles(in_order, tile):
        maps = in_order
    first_query = first_tile = 0
    for number, (height, width) in enumerate(maps):
        tokens = 0 if maps is in_order else height * width
        layout.map[number] = QueryMap(height, width, first_query, first_tile, -(-width // columns), tokens)
        first_query += height * width
        first_tile += _tiles([(height, width)], tile)
    layout.maps = len(maps)
    return layout, first_tile


def _tiles(maps: Sequence[tuple[int, int]], tile: tuple[int, int]) -> int:
    return sum(-(-height // tile[0]) * -(-width // tile[1]) for height, width in maps)


def for_wide_loads(tensor: Tensor) -> Tensor:
    """The tensor contiguous and on a 16-byte boundary, which a view into another one may not be."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % LOAD_BYTES else tensor

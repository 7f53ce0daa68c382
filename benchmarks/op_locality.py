"""What the layout of the CUDA kernels' blocks spares, simulated: loads that miss L1, additions to memory.

Run it as ``python benchmarks/op_locality.py``. It needs no GPU and measures none. M2F at 1024x2048 in
float32, where a row of one head is a line of 128 bytes.

- Loads: one cache that drops the least recently used line is asked for the rows of value in the order in
  which a multiprocessor's blocks come to them, sample by sample in turn. Caches of 64 to 192 KiB stand for
  what shared memory leaves of a Hopper's 256. Blocks go round its 132 multiprocessors.
- Additions: gradients that blocks of the finest queries add up by token before they go to memory, chained
  in the kernel's buckets.
"""

import itertools
import sys
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor

from segmeter.cuda_ops.cuda_build import choose_kind
from segmeter.cuda_ops.cuda_plan import lay_out
from segmeter.harness.op.problems import HEADS, POINTS, Case, draw_problem
from segmeter.harness.op.shapes import SHAPES

LINE_BYTES = 128
MULTIPROCESSORS = 132
RESIDENT = 4  # blocks of 256 threads of 64 registers
BLOCKS = 64  # of one multiprocessor that are simulated
BUCKETS = 1024
CACHES_KIB = (64, 128, 192)


def main() -> int:
    """Print the share of loads that hit, by layout of the blocks and size of the cache."""
    for places in ("realistic", "smooth"):
        rows = _rows_of_samples(places)
        for name, blocks in (("4 queries of 8 heads", _in_order()), ("32 queries of 1 head", _in_tiles())):
            taken = list(itertools.islice(blocks, 0, MULTIPROCESSORS * BLOCKS, MULTIPROCESSORS))
            shares = [_hits(rows, taken, 1024 * size // LINE_BYTES) for size in CACHES_KIB]
            told = ", ".join(
                f"{100 * share:.0f} % of {size} KiB" for size, share in zip(CACHES_KIB, shares, strict=True)
            )
            print(f"{places} locations, {name} a block: hits {told}")
        left = _left(rows, list(itertools.islice(_in_tiles(), 320, 1344, 16)))
        print(f"{places} locations, finest queries: {100 * left:.0f} % of the additions reach memory")
    return 0


def _rows_of_samples(places: str) -> Tensor:
    """(Q, M, L*P, 4) row of value at each corner of each sample; -1 off the map.

    ``smooth``: every head, level and point looks to one side, the same for all queries but for 0.3 pixels, as
    it does when training starts; ``realistic``, as in ``op bench``, has no two queries agree.
    """
    problem = draw_problem(Case("m2f-1024x2048", "realistic", "forward", "float32"), torch.device("cpu"))
    offsets = problem.offsets[0].double()
    if places == "smooth":
        offsets = offsets[:1] + offsets * 0.1
    sizes = problem.shapes.double()
    pixels = problem.points[0, :, None, :, None].double() * sizes.flip(-1)[:, None] - 0.5 + offsets
    low = pixels.floor().long()
    corners = []
    for down, right in itertools.product((0, 1), (0, 1)):
        x, y = low[..., 0] + right, low[..., 1] + down
        height, width = (problem.shapes[:, axis, None] for axis in (0, 1))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        token = problem.starts[:, None] + y * width + x
        heads = torch.arange(HEADS)[:, None, None]
        corners.append(torch.where(inside, token * HEADS + heads, -1))
    return torch.stack(corners, -1).flatten(2, 3)


def _in_order() -> Iterator[list[tuple[int, int]]]:
    """The (query, head) pairs of each block, 32 in a row."""
    queries = _queries()
    for first in range(0, queries, 4):
        yield [(query, head) for query in range(first, min(first + 4, queries)) for head in range(HEADS)]


def _in_tiles() -> Iterator[list[tuple[int, int]]]:
    """The same for the kernels' own layout: heads outermost, tiles of neighbouring queries."""
    sizes, _ = SHAPES["m2f-1024x2048"]
    kind = choose_kind(torch.float32, HEADS, 32, len(sizes), POINTS, fused=True)
    assert kind is not None
    rows, columns = kind.tile
    layout, _ = lay_out(sizes, _queries(), kind.tile)
    for head in range(HEADS):
        for at in list(layout.map)[: layout.maps]:
            for top, left in itertools.product(range(0, at.height, rows), range(0, at.width, columns)):
                places = itertools.product(
                    range(top, min(top + rows, at.height)), range(left, min(left + columns, at.width))
                )
                yield [(at.first_query + y * at.width + x, head) for y, x in places]


def _queries() -> int:
    return sum(height * width for height, width in SHAPES["m2f-1024x2048"][0])


def _hits(rows: Tensor, blocks: list[list[tuple[int, int]]], lines: int) -> float:
    """The share of loads that find their line; RESIDENT blocks at once, sample by sample in turn."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = loads = 0
    for first in range(0, len(blocks), RESIDENT):
        pairs = torch.tensor([pair for block in blocks[first : first + RESIDENT] for pair in block])
        for row in rows[pairs[:, 0], pairs[:, 1]].transpose(0, 1).flatten().tolist():
            if row < 0:
                continue
            loads += 1
            if row in held:
                hits += 1
                held.move_to_end(row)
                continue
            held[row] = None
            if len(held) > lines:
                held.popitem(last=False)
    return hits / loads


def _left(rows: Tensor, blocks: list[list[tuple[int, int]]]) -> float:
    """Runs of one token in the chains of a block's buckets, over entries; as csrc/gpu.cu chains them."""
    entries = runs = 0
    for block in blocks:
        pairs = torch.tensor(block)
        last: dict[int, int] = {}
        for row in rows[pairs[:, 0], pairs[:, 1]].flatten().tolist():
            if row < 0:
                continue
            token = row // HEADS
            bucket = (token * 2654435761 % 2**32) // (2**32 // BUCKETS)
            entries += 1
            runs += last.get(bucket) != token
            last[bucket] = token
    return runs / entries


if __name__ == "__main__":
    sys.exit(main())

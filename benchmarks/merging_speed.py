"""Merging as segmeter does it against the official steps, written out plainly.

    python benchmarks/merging_speed.py [TOKENS_A_SIDE] [WIDTH]

The plain steps: all pairs of every window are compared, the whole table of similarities is made and sorted,
a source map of tokens by patches is kept and merged by scattering, and sizes go through the same scatter.
Both give the same tokens (checked first); the median processor time of calls made in turn is printed.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from segmeter.encoders.reduction.algm import Algm
from segmeter.encoders.reduction.grid import BipartiteMerging
from segmeter.encoders.reduction.interface import TokenSet, first_rows, take_rows

ROUNDS = 7


def plain_global(x: Tensor, source: Tensor, sizes: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """ALGM's global stage step by step: tokens (B, T, C), source map (B, T, 1 + N), sizes (B, T, 1)."""
    unit = x / x.norm(dim=-1, keepdim=True)
    table = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    table[:, 0] = -torch.inf
    best, to = table.max(-1)
    kept = best[:, 1:]
    threshold = kept.mean(1).mean() + kept.std(1).mean() / layer
    gone = int((best >= threshold).sum(1).min())
    order = best.argsort(dim=-1, descending=True)
    left, sent = order[:, gone:].sort(dim=-1).values, order[:, :gone]
    target = to.gather(1, sent)

    def merged(values: Tensor, how: str) -> Tensor:
        even, odd = values[:, ::2], values[:, 1::2]
        width = values.shape[2]
        stays = even.gather(1, left[..., None].expand(-1, -1, width))
        goes = even.gather(1, sent[..., None].expand(-1, -1, width))
        place = target[..., None].expand(-1, -1, width)
        return torch.cat([stays, odd.scatter_reduce(1, place, goes, reduce=how)], 1)

    total = merged(sizes, "sum")
    return merged(x * sizes, "sum") / total, merged(source, "amax")


def plain_local(x: Tensor, grid: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """ALGM's local stage step by step; tokens, and the source map."""
    batch, number, width = x.shape
    maps = x[:, 1:].transpose(1, 2).unflatten(2, grid)
    windows = F.unfold(maps, 2, stride=2).view(batch, width, 4, -1).permute(0, 3, 2, 1)
    pairs = F.cosine_similarity(windows[..., :, None, :], windows[..., None, :, :], dim=-1)
    pairs = pairs * (1 - torch.eye(4))
    likeness = pairs.sum((-1, -2)) / 12
    merged = int((likeness >= threshold).sum(1).min())
    chosen = likeness.topk(merged).indices
    source = torch.eye(number).expand(batch, -1, -1)
    rows, columns = chosen // (grid[1] // 2), chosen % (grid[1] // 2)
    corner = 1 + 2 * rows * grid[1] + 2 * columns
    members = torch.stack([corner, corner + 1, corner + grid[1], corner + grid[1] + 1], 2)
    gone = torch.zeros((batch, number), dtype=torch.bool).scatter_(1, members.flatten(1), value=True)
    out, maps_out = [], []
    for image in range(batch):
        rest = (~gone[image]).nonzero()[1:, 0]
        tokens, held = x[image], source[image]
        out.append(torch.cat([tokens[:1], tokens[members[image]].mean(1), tokens[rest]]))
        maps_out.append(torch.cat([held[:1], held[members[image]].amax(1), held[rest]]))
    return torch.stack(out), torch.stack(maps_out)


def plainly(x: Tensor, grid: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """Both stages; tokens, and the row of each patch."""
    tokens, source = plain_local(x, grid, threshold)
    tokens, source = plain_global(tokens, source, source.sum(2, keepdim=True), 5)
    return tokens, source[:, :, 1:].argmax(1)


def ours(reducer: Algm, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Both stages as the models run them."""
    rows = first_rows(len(x), grid[0] * grid[1], x.device)
    x, index = reducer(TokenSet(x, rows, grid, 1))
    rows = index.gather(1, rows)
    x, index = reducer(TokenSet(x, rows, grid, 5))
    return x, index.gather(1, rows)


def plain_grid(x: Tensor, grid: tuple[int, int], stride: int, rate: float) -> tuple[Tensor, Tensor]:
    """Segformer++'s bsm step by step: merged tokens (B, T', C), and given back (B, T, C)."""
    (batch, number, width), (high, wide) = x.shape, grid
    marks = torch.zeros((high // stride, wide // stride, stride, stride), dtype=torch.int64)
    marks[:, :, 0, 0] = -1
    laid = torch.zeros((high, wide), dtype=torch.int64)
    whole = marks.transpose(1, 2).reshape(high // stride * stride, wide // stride * stride)
    laid[: len(whole), : whole.shape[1]] = whole
    order = laid.reshape(1, -1, 1).argsort(dim=1, stable=True)
    places = int((laid == -1).sum())
    ours, theirs = order[:, places:], order[:, :places]

    def split(values: Tensor) -> tuple[Tensor, Tensor]:
        shape = (batch, -1, values.shape[2])
        return (
            values.gather(1, ours.expand(batch, number - places, shape[2])),
            values.gather(1, theirs.expand(batch, places, shape[2])),
        )

    even, odd = split(x / x.norm(dim=-1, keepdim=True))
    best, to = (even @ odd.transpose(1, 2)).max(-1)
    gone = min(int(number * rate), number - places)
    ranked = best.argsort(dim=-1, descending=True)[..., None]
    left, sent = ranked[:, gone:], ranked[:, :gone]
    target = to[..., None].gather(1, sent)
    sources, destinations = split(x)
    stays = sources.gather(1, left.expand(-1, -1, width))
    goes = sources.gather(1, sent.expand(-1, -1, width))
    means = destinations.scatter_reduce(1, target.expand(-1, -1, width), goes, reduce="mean")
    merged = torch.cat([stays, means], 1)
    restored = torch.zeros_like(x)
    restored.scatter_(1, theirs.expand(batch, -1, width), means)
    where_left = ours.expand(batch, -1, 1).gather(1, left)
    restored.scatter_(1, where_left.expand(-1, -1, width), stays)
    where_sent = ours.expand(batch, -1, 1).gather(1, sent)
    restored.scatter_(1, where_sent.expand(-1, -1, width), means.gather(1, target.expand(-1, -1, width)))
    return merged, restored


def our_grid(reducer: BipartiteMerging, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same as the models run it."""
    rows = torch.arange(x.shape[1]).expand(len(x), -1)
    merged, index = reducer(TokenSet(x, rows, grid, 1, protected=0))
    return merged, take_rows(merged, index)


def compared(
    title: str, calls: dict[str, Callable[[], tuple[Tensor, Tensor]]], checked: tuple[int, ...]
) -> None:
    """Check that both give the same, and print how long they take.

    Args:
        title: printed before the times.
        calls: "plain" and "segmeter".
        checked: places of the results that have to be equal; bsm's own order of the merged tokens is free.
    """
    plain, mine = calls["plain"](), calls["segmeter"]()
    if not all(torch.allclose(plain[place], mine[place], atol=1e-5) for place in checked):
        raise SystemExit("the two do not give the same tokens")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            before = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - before))
    print(f"{title} -> {mine[0].shape[1]} tokens")
    for name, taken in times.items():
        print(f"  {name:9} {median(taken):8.1f} ms")
    print(f"  ratio     {median(times['plain']) / median(times['segmeter']):8.2f}")


def tokens_of(side: int, width: int) -> Tensor:
    """Tokens (4, side * side, width) that are alike where they are near each other."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((4, width, side // 4, side // 4), generator=generator)
    maps = F.interpolate(coarse, size=(side, side), mode="bilinear")
    maps = maps + 0.1 * torch.randn((4, width, side, side), generator=generator)
    return maps.flatten(2).transpose(1, 2)


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    width = int(sys.argv[2]) if len(sys.argv) > 2 else 384
    grid, threshold = (side, side), 0.9
    patches = tokens_of(side, width)
    x = torch.cat([torch.randn((4, 1, width), generator=torch.Generator().manual_seed(1)), patches], 1)
    reducer = Algm((1, 5), (2, 2), threshold)
    size = f"{side * side} patches of width {width}, batch 4"
    compared(
        f"ALGM's two stages, {size}",
        {"plain": lambda: plainly(x, grid, threshold), "segmeter": lambda: ours(reducer, x, grid)},
        checked=(0, 1),
    )
    bipartite = BipartiteMerging(0.8, (4, 4))
    compared(
        f"bsm 0.8 with 4x4 cells and its undoing, {size}",
        {
            "plain": lambda: plain_grid(patches, grid, 4, 0.8),
            "segmeter": lambda: our_grid(bipartite, patches, grid),
        },
        checked=(1,),
    )


if __name__ == "__main__":
    # Processor time of one thread: other work on the machine leaves it.
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()

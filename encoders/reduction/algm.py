"""ALGM: windows of alike neighbours become one token early, then alike tokens anywhere, later.

Source: ALGM (CVPR 2024); official code tue-mps/algm-segmenter, ``algm/local_merge.py`` and
``global_merge.py``. Both stages compare the residual stream after attention. How many tokens go is the
smallest number over the images of a batch, so that a batch stays one tensor.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmeter.encoders.options import Option
from segmeter.encoders.reduction.interface import ReducerKind, TokenSet
from segmeter.encoders.reduction.merging import Gathering, Matching, WindowMatching
from segmeter.encoders.rules import Number, Rising, Window

MAX_LAYER = 1000
MAX_WINDOW = 64
# A threshold that no cosine reaches: the first stage merges nothing.
NEVER = 1.01
# Threshold of the local stage in the published rows; ADE20K's where a backbone has several.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "vit-ti": {"threshold": 0.9},
    "vit-s": {"threshold": 0.88},
    "vit-b": {"threshold": 0.94},
    "vit-l": {"threshold": 0.95, "layers": (1, 7)},
}


class Algm(nn.Module):
    """The two stages: the first of its layers merges in windows, every further one globally.

    Args:
        layers: blocks in which to merge, from 1, rising.
        window: (high, wide) in patches.
        threshold: mean cosine from which a window's tokens become one.
    """

    def __init__(self, layers: tuple[int, ...], window: tuple[int, int], threshold: float) -> None:
        super().__init__()
        self.layers = layers
        self.window = window
        self.threshold = threshold
        self.matching = nn.ModuleList([WindowMatching(), Matching()])
        self.gathering = Gathering()

    def forward(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`."""
        if tokens.layer == self.layers[0]:
            return self.local(tokens)
        return self.everywhere(tokens)

    def local(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """Class token, the merged windows by falling similarity, the other tokens in raster order.

        Raises:
            ValueError: the window does not divide the grid.
        """
        x, (high, wide) = tokens.x, tokens.grid
        down, across = self.window
        if high % down or wide % across:
            raise ValueError(
                f"ALGM's window {down}x{across} does not divide the grid of {high}x{wide} patches; choose a "
                f"size whose sides are multiples of {16 * down} and {16 * across} pixels"
            )
        batch, _, dim = x.shape
        size = down * across
        windows = x[:, 1:].view(batch, high // down, down, wide // across, across, dim)
        windows = windows.transpose(2, 3).reshape(batch, -1, size, dim)
        similarity = self.matching[0](windows)
        merged = int((similarity >= self.threshold).sum(1).min())
        chosen = similarity.topk(merged, dim=1).indices
        # Row of each window, -1 where its tokens stay: laid out over the patches.
        of_window = torch.full(similarity.shape, -1, device=x.device)
        of_window.scatter_(1, chosen, torch.arange(1, merged + 1, device=x.device).expand(batch, -1))
        rows = of_window.view(batch, high // down, 1, wide // across, 1)
        rows = rows.expand(-1, -1, down, -1, across).reshape(batch, high * wide)
        stays = rows < 0
        rows = torch.where(stays, merged + stays.cumsum(1), rows)
        index = F.pad(rows, (1, 0))
        return self.gathering(x, index, x.shape[1] - merged * (size - 1)), index

    def everywhere(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """The tokens of even places that stay, class token first, then those of odd places, both in order."""
        x = tokens.x
        best, to = match_even(self.matching[1], x)
        threshold = adaptive_threshold(best, tokens.layer)
        gone = int((best >= threshold).sum(1).min())
        return merge_even(x, best, to, gone, tokens.sizes, self.gathering)


def adaptive_threshold(best: Tensor, layer: int) -> Tensor:
    """Mean over a batch of mean + deviation / layer of the best similarities (B, S), class token left out.

    The deviation is the unbiased one. NaN, which nothing reaches, for fewer than two tokens.
    """
    if best.shape[1] < 2:
        return torch.full((), torch.nan, device=best.device)
    return best.mean(1).mean() + best.std(1).mean() / layer


def match_even(matching: nn.Module, metric: Tensor) -> tuple[Tensor, Tensor]:
    """Best similarity and match at odd places of each token (B, T, C) at an even place after the first.

    The class token is compared too, as the official code does, though it never goes.
    """
    best, to = matching(metric[:, ::2], metric[:, 1::2])
    return best[:, 1:], to[:, 1:]


def merge_even(
    x: Tensor, best: Tensor, to: Tensor, gone: int, sizes: Tensor, gathering: nn.Module
) -> tuple[Tensor, Tensor]:
    """Send the ``gone`` tokens of even places that are most alike into their matches at odd places.

    Args:
        x: (B, T, C), class token first; it stays.
        best, to: (B, A) similarity and match of the even places after the class token's.
        gone: number of them to send.
        sizes: (B, T) patches that each token stands for, which weigh it.
        gathering: averages.

    Returns:
        The even places that stay, then the odd ones, and the rows of all tokens (B, T).
    """
    batch, number = x.shape[:2]
    leaves = torch.zeros(best.shape, dtype=torch.bool, device=x.device)
    leaves.scatter_(1, best.topk(gone, dim=1).indices, value=True)
    kept = 1 + best.shape[1] - gone
    index = torch.empty((batch, number), dtype=torch.int64, device=x.device)
    index[:, 0] = 0
    index[:, 2::2] = torch.where(leaves, kept + to, (~leaves).cumsum(1))
    index[:, 1::2] = torch.arange(kept, number - gone, device=x.device)
    return gathering(x, index, number - gone, sizes), index


def _build(layers: tuple[int, ...], window: tuple[int, ...], threshold: float) -> nn.Module:
    return Algm(layers, (window[0], window[1]), threshold)


def _published(backbone: str) -> Mapping[str, Any]:
    return PUBLISHED.get(backbone, {})


ALGM = ReducerKind(
    name="algm",
    title="ALGM",
    summary="merges alike neighbours early, then alike tokens anywhere; how many depends on the image",
    source="ALGM (CVPR 2024)",
    build=_build,
    published=_published,
    depends_on_image=True,
    options=(
        Option(
            name="layers",
            default=(1, 5),
            check=Rising(1, MAX_LAYER),
            help="blocks that merge, the first in windows; 1,7 for ViT-L",
        ),
        Option(
            name="window",
            default=(2, 2),
            check=Window(MAX_WINDOW),
            help="patches that may become one token, high and wide",
        ),
        Option(
            name="threshold",
            default=0.88,
            check=Number(-1, NEVER),
            help="mean cosine from which a window is merged; by default the published model's",
        ),
    ),
)

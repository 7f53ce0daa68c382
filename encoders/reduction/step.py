"""STEP: superpatches of 2x2 to 16x16 that a small network chooses on every image, and early exit of tokens.

Source: STEP (arXiv 2509.14165; VISAPP 2025). No code and no table of results is public. What its texts say:
sizes of 2, 4, 8 and 16, chosen by a CNN when it runs, and tokens halted through auxiliary heads on the way.
Inferred, and an option or a choice of this module: the CNN and its input are CTS's, with a head for each
size; the largest size goes first; heads, their rule and their places are DToP's (arXiv 2308.01045), and so
is the final map. The class token stays. Images keep different numbers of tokens and run one by one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.patches import PATCH, PatchEmbedding
from segmeter.encoders.options import Option
from segmeter.encoders.parts.atm import AtmDecoder, AtmHead
from segmeter.encoders.reduction.interface import ReducerKind, first_rows
from segmeter.encoders.reduction.limits import check_exits
from segmeter.encoders.reduction.superpatches import Policy, embed_superpatches
from segmeter.encoders.rules import NoneOr, Number, SomeOf, WholeNumber, WholeNumbers

SIDES = (2, 4, 8, 16)
MAX_LAYER = 1000
MAX_KEPT = 1 << 16


class Step(nn.Module):
    """Both parts; either may be left out.

    Args:
        scales: sides of the superpatches in patches; empty for none.
        share: probability from which the patches of a superpatch share a token.
        exits: blocks behind which confident tokens are halted; empty for none.
        confidence: score from which a token is halted.
        keep: most confident tokens of each class that go on as context.
        dim, num_classes: of the model.
    """

    layers = ()
    batched = False

    def __init__(
        self,
        scales: tuple[int, ...],
        share: float,
        exits: tuple[int, ...],
        confidence: float,
        keep: int,
        dim: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.scales = tuple(sorted(scales, reverse=True))
        self.share = share
        self.exits = exits
        self.confidence = confidence
        self.keep = keep
        self.policy = Policy(self.scales) if scales else None
        self.heads = nn.ModuleDict({str(layer): AtmHead(dim, num_classes) for layer in exits})

    def embed(self, images: Tensor, embedding: PatchEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`; one image.

        Raises:
            ValueError: a side that is no multiple of 32.
        """
        if self.policy is None:
            patches = embedding(images) + positions.flatten(1, 2)
            return patches, first_rows(len(images), patches.shape[1], images.device)
        height, width = images.shape[2:]
        if height % (2 * PATCH) or width % (2 * PATCH):
            raise ValueError(
                f"STEP takes images whose sides are multiples of {2 * PATCH}, got {height}x{width}"
            )
        chosen = self.choose(self.policy(images), (height // PATCH, width // PATCH))
        numbers = [int(mask.sum()) for _, mask in chosen]
        return embed_superpatches(images, embedding, positions, chosen, numbers)

    def choose(self, logits: list[Tensor], grid: tuple[int, int]) -> list[tuple[int, Tensor]]:
        """Superpatches of each size, the largest first; none lies in one that is chosen already."""
        free = torch.ones((1, *grid), dtype=torch.bool, device=logits[0].device)
        chosen = []
        for scale, each in zip(self.scales, logits, strict=True):
            rows, columns = grid[0] // scale, grid[1] // scale
            if not rows or not columns:
                continue
            here = free[:, : rows * scale, : columns * scale]
            cells = here.unflatten(2, (columns, scale)).unflatten(1, (rows, scale)).all(4).all(2)
            mask = cells & (each.softmax(1)[:, 1, :rows, :columns] > self.share)
            here &= ~mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            chosen.append((scale, mask))
        return chosen

    def halt(
        self, x: Tensor, rows: Tensor, canvas: Tensor | None, layer: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take the confident tokens out behind a block.

        Args:
            x: (1, T, C) with the class token.
            rows: (1, N) row of each patch, -1 for a halted one.
            canvas: (1, N, K) map logits of the patches that are halted; None while none is.
            layer: the block's number.

        Returns:
            Tokens, rows and canvas after it.
        """
        if layer not in self.exits or x.shape[1] == 1:  # all patches may be halted by now
            return x, rows, canvas
        classes, logits = self.heads[str(layer)](x[:, 1:])
        score, label = (logits.sigmoid() * classes[:, None]).max(2)
        confident = score > self.confidence
        confident &= ~self.context(score, label, logits.shape[2])
        stays = torch.cat([torch.ones_like(confident[:, :1]), ~confident], 1)
        before = (
            torch.zeros((1, rows.shape[1], logits.shape[2]), device=x.device) if canvas is None else canvas
        )
        held = rows.clamp(min=0)
        leaving = (rows >= 0) & ~stays.gather(1, held)
        own = logits.gather(1, (held - 1).clamp(min=0)[..., None].expand(-1, -1, logits.shape[2]))
        canvas = torch.where(leaving[..., None], own.to(before.dtype), before)
        index = stays.cumsum(1) - 1
        rows = torch.where((rows >= 0) & ~leaving, index.gather(1, held), torch.full_like(rows, -1))
        return x[:, stays[0]], rows, canvas

    def context(self, score: Tensor, label: Tensor, num_classes: int) -> Tensor:
        """(1, T) whether a token is among the ``keep`` most confident ones of its class."""
        if not self.keep:
            return torch.zeros_like(score, dtype=torch.bool)
        of_class = torch.where(
            label[:, None] == torch.arange(num_classes, device=label.device)[:, None], score[:, None], -1.0
        )
        best, places = of_class.topk(min(self.keep, score.shape[1]), dim=2)
        kept = torch.zeros(score.shape, device=score.device)
        return kept.scatter_add_(1, places.flatten(1), (best >= 0).flatten(1).to(kept.dtype)) > 0


def _build(depth: int, **values: Any) -> nn.Module:
    exits = values["exits"] or ()
    check_exits(depth, exits)
    return Step(**{**values, "exits": exits, "scales": values["scales"] or ()})


def _decoder(values: Mapping[str, Any], dim: int, num_classes: int) -> nn.Module | None:
    return AtmDecoder(dim, num_classes) if values["exits"] else None


def _published(backbone: str) -> Mapping[str, Any]:
    return {"exits": (8, 16), "confidence": 0.95} if backbone == "vit-l" else {}


STEP = ReducerKind(
    name="step",
    title="STEP",
    summary="superpatches of 2x2 to 16x16 chosen on every image, and early exit; partly inferred",
    source="STEP (arXiv 2509.14165)",
    build=_build,
    decoder=_decoder,
    published=_published,
    context=True,
    depends_on_image=True,
    needs_training=True,
    options=(
        Option(
            name="scales", default=SIDES, check=SomeOf(SIDES), help="sides of the superpatches; 0 for none"
        ),
        Option(
            name="share", default=0.5, check=Number(0, 1), help="probability from which patches share a token"
        ),
        Option(
            name="exits",
            default=(6, 8),
            check=NoneOr(WholeNumbers(1, MAX_LAYER), zero=True),
            help="blocks behind which tokens go; 0 for none",
        ),
        Option(name="confidence", default=0.9, check=Number(0, 1), help="score from which a token is halted"),
        Option(
            name="keep",
            default=5,
            check=WholeNumber(0, MAX_KEPT),
            help="most confident tokens of each class that go on",
        ),
    ),
)

"""ToMe: in every block the most alike pairs become one token; as many on every image.

Source: ToMe (arXiv 2210.09461); official code facebookresearch/ToMe. Tokens are matched by the mean of their
keys over the heads; attention weighs a token by the patches that it stands for.
"""

from torch import Tensor, nn

from segmeter.encoders.options import Option
from segmeter.encoders.reduction.algm import MAX_LAYER, match_even, merge_even
from segmeter.encoders.reduction.interface import ReducerKind, TokenSet
from segmeter.encoders.reduction.merging import Gathering, Matching
from segmeter.encoders.rules import WholeNumber, WholeNumbers, YesOrNo

MAX_MERGED = 1 << 20


class ToMe(nn.Module):
    """Merges ``merged`` pairs of tokens in each of its layers, at most half of the tokens.

    Args:
        merged: tokens that go in each layer.
        layers: the blocks that merge, from 1.
        proportional: whether attention weighs tokens by their sizes.
    """

    reads_keys = True

    def __init__(self, merged: int, layers: tuple[int, ...], proportional: bool) -> None:
        super().__init__()
        self.merged = merged
        self.layers = layers
        self.proportional = proportional
        self.matching = Matching()
        self.gathering = Gathering()

    def forward(self, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        """See :mod:`encoders.reduction.interface`."""
        keys = tokens.x if tokens.keys is None else tokens.keys
        best, to = match_even(self.matching, keys)
        gone = min(self.merged, best.shape[1])
        return merge_even(tokens.x, best, to, gone, tokens.sizes, self.gathering)


def _build(r: int, layers: tuple[int, ...] | None, proportional: bool, depth: int, **context: int) -> ToMe:
    return ToMe(r, layers or tuple(range(1, depth + 1)), proportional)


TOME = ReducerKind(
    name="tome",
    title="ToMe",
    summary="merges the same number of alike pairs in every block",
    source="ToMe (arXiv 2210.09461)",
    build=_build,
    context=True,
    options=(
        Option(
            name="r",
            # Not published for Segmenter: near ALGM's saving on 1024 patches.
            default=40,
            check=WholeNumber(0, MAX_MERGED),
            help="tokens that go in each block",
        ),
        Option(
            name="layers", default=None, check=WholeNumbers(1, MAX_LAYER), help="blocks that merge; none: all"
        ),
        Option(
            name="proportional",
            default=True,
            check=YesOrNo(),
            help="attention weighs a token by the patches that it stands for",
        ),
    ),
)

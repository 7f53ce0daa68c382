"""How the authors' checkpoints of a system name its weights, where that is not how Mask2Former's do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def layers_in(shapes: Shapes, path: str) -> int:
    """How many numbered modules stand at a path such as ``decoder.layers``; a number's size says nothing.

    >>> layers_in({"decoder.layers.0.bias": (1,), "decoder.layers.999.bias": (1,)}, "decoder.layers")
    2
    """
    inside = (name.removeprefix(f"{path}.") for name in shapes if name.startswith(f"{path}."))
    return sum(number.isdigit() for number in {name.partition(".")[0] for name in inside})


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Names of one system's weights.

    Attributes:
        sign: a pattern that a name of such a file matches in full, and no other file's does.
        rules: (pattern of a name in the file, our name), tried in order; ``{1+1}`` is a group plus 1. A name
            that ends in "#n" is the n-th third of a fused entry, in "#12" its last two; in "#1x1" it is a
            linear layer's weight that is a 1x1 convolution here.
        base: the format whose rules come after these; "" for none.
        ignored: patterns of entries that are no weights of the model.
        shared: patterns of our names that several entries of the file repeat, with the same numbers.
        backbone: the backbone that such files are of; "" where names and shapes tell it.
        backbone_of: shapes by our names -> the backbone; None where the trunk's names tell it.
        ignored_beside: a pattern of names -> patterns of entries that are no weights in a file that has such.
        options: shapes by our names -> the options that leave a trace in them.
        classes: our name of an entry with a row for each class; several, one of which there is, apart by
            blanks.
        no_object: whether one of those rows is "no object".
        implied: options that leave no trace, as such files were trained.
        widths: options that number something else than layers.
        queries: our name of one with a row for each query; "" where there is none.
    """

    sign: str
    rules: tuple[tuple[str, str], ...]
    base: str = ""
    ignored: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    backbone: str = ""
    backbone_of: Callable[[Shapes], str] | None = None
    ignored_beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Callable[[Shapes], dict[str, Any]] = lambda shapes: {}
    classes: str
    no_object: bool = False
    implied: Mapping[str, Any] = field(default_factory=dict)
    widths: tuple[str, ...] = ()
    queries: str = ""

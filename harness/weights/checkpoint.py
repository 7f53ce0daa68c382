"""A checkpoint: weights under the official names, and what the file says of itself."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from segmeter.harness.weights.files import read_entries
from segmeter.harness.weights.names import MODEL_KEY, recognise_format, rename

# A pattern of names -> whose they are: systems that are counted and run here, and whose files are not read.
UNREAD = {
    r"(backbone\.)?clip_model\..*": "FC-CLIP's or MaskCLIP's",
    r"sem_seg_head\.predictor\._kmax_transformer_layers\..*": "kMaX-DeepLab's",
    r"panoptic_head\..*": "RAP-SAM's or another of mmdetection's",
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names.

    Attributes:
        path: the file.
        kind: one of :data:`harness.weights.names.FORMATS`, or the system whose own names they are.
        weights: our names -> tensors.
        origin: our names -> the file's names.
        unexpected: the file's entries that no model of this format has.
        ignored: the file's entries that are no weights of the model (loss, index buffers, no numbers).
        metadata: a safetensors file's text entries.
    """

    path: Path
    kind: str
    weights: dict[str, Tensor]
    origin: dict[str, str]
    unexpected: list[str]
    ignored: list[str]
    metadata: dict[str, str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file and put its entries under our names.

    Raises:
        ValueError: no such file, no known format, a truncated file, or one that asks to run code; the
            offending global is named.
        OSError: the file cannot be read.
    """
    found = read_entries(path)
    entries = found.tensors
    kind = "segmeter" if MODEL_KEY in found.metadata else recognise_format(entries)
    if kind is None:
        _refuse_unread(path, entries)
        some = ", ".join(list(entries)[:3]) or "none"
        raise ValueError(
            f"{path} holds no model that segmeter knows: expected names of detectron2, transformers, "
            f"segmeter or a system's own code, found {len(entries)} entries ({some})"
        )
    if kind != "segmeter":
        _refuse_unread(path, entries)
    weights, origin, unexpected, ignored = rename(kind, entries)
    return Checkpoint(path, kind, weights, origin, unexpected, [*ignored, *found.others], found.metadata)


def _refuse_unread(path: Path, names: Iterable[str]) -> None:
    """Say of a system's file that it cannot be read, where another format's words would mislead."""
    for name in names:
        for pattern, owner in UNREAD.items():
            if re.fullmatch(pattern, name):
                raise ValueError(
                    f"{path} has {owner} names ({name}), which are not read here; counting needs no weights, "
                    "and files that segmeter wrote itself load"
                )

"""A checkpoint: weights under the official names, and what the file says of itself."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from segmeter.harness.weights.files import read_entries
from segmeter.harness.weights.names import MODEL_KEY, recognise_format, rename


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
        some = ", ".join(list(entries)[:3]) or "none"
        raise ValueError(
            f"{path} holds no model that segmeter knows: expected names of detectron2, transformers, "
            f"segmeter or a system's own code, found {len(entries)} entries ({some})"
        )
    weights, origin, unexpected, ignored = rename(kind, entries)
    return Checkpoint(path, kind, weights, origin, unexpected, [*ignored, *found.others], found.metadata)

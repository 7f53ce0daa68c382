"""Kinds of checkpoint files, by their names and first bytes; loads no torch: a wrong file is told at once."""

import struct
from pathlib import Path

SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt", ".bin")
ARCHIVE = b"PK"
# torch writes protocol 2 and later; other pickles of containers may begin with these.
PICKLES = {".pkl": b"\x80(c}]d"}
TORCH = b"\x80"


def check_checkpoint(path: Path) -> None:
    """Refuse a file that is plainly no checkpoint.

    Raises:
        ValueError: no such file, another kind, an empty file, or one that does not begin as its kind does.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"unknown kind of checkpoint {path.name!r}; expected one of {', '.join(SUFFIXES)}")
    with path.open("rb") as file:
        first = file.read(8)
    if path.suffix == ".safetensors":
        header = struct.unpack("<Q", first)[0] if len(first) == 8 else path.stat().st_size
        if header > path.stat().st_size - 8:
            raise ValueError(f"{path} is not a whole safetensors file: its header is longer than the file")
    elif not first.startswith(ARCHIVE) and first[:1] not in [
        bytes([byte]) for byte in PICKLES.get(path.suffix, TORCH)
    ]:
        kind = "pickle of weights" if path.suffix == ".pkl" else "torch checkpoint"
        raise ValueError(f"{path} is not a whole {kind}: it {'begins as none' if first else 'is empty'}")

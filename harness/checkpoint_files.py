"""Entries of a checkpoint file, read so that no code from it ever runs.

detectron2's ``.pkl`` goes through :mod:`harness.safe_pickle`, torch's ``.pth``, ``.pt`` and ``.bin`` through
torch's ``weights_only``, ``.safetensors`` through safetensors.
"""

import pickle
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.checkpoint_names import to_tensor
from harness.safe_pickle import load_pickle

SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt", ".bin")
# A torch archive stores its members as they are; a member larger than this beyond the file is a bomb.
ZIP_SLACK = 1 << 20
# Bytes of weights that a file may show beyond a few times its own size.
REPETITION = 1 << 31
# What torch raises on damaged and on hostile files.
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(MemoryError, AssertionError, OverflowError),
)


@dataclass(frozen=True)
class Entries:
    """What a file holds, under the file's own names.

    Attributes:
        tensors: the numbers.
        others: names of entries of the state dict that are no numbers.
        metadata: a safetensors file's text entries.
    """

    tensors: dict[str, Tensor]
    others: list[str]
    metadata: dict[str, str]


def read_entries(path: Path) -> Entries:
    """Read a file's state dict: the file's content itself, or what is under "model" or "state_dict".

    Raises:
        ValueError: no such file, no known kind, a truncated file, or one that asks to run code; the
            offending global is named.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"unknown kind of checkpoint {path.name!r}; expected one of {', '.join(SUFFIXES)}")
    content, metadata = _read(path)
    state = _state_dict(path, content)
    _refuse_repetition(path, state)
    tensors = {name: to_tensor(value) for name, value in state.items()}
    return Entries(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        [name for name, tensor in tensors.items() if tensor is None],
        metadata,
    )


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a checkpoint must be a dict of weights, got a {type(content).__name__}")
    if not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: a checkpoint must be a dict of weights under names that are text")
    if content and all(name.startswith("module.") for name in content):
        # Saved from inside DistributedDataParallel.
        return {name.removeprefix("module."): value for name, value in content.items()}
    return content


def _refuse_repetition(path: Path, state: dict[str, Any]) -> None:
    """A view may show one number a billion times; written out, it would fill the memory."""
    shown = sum(int(value.nbytes) for value in state.values() if isinstance(value, Tensor | np.ndarray))
    stored = path.stat().st_size
    if shown > REPETITION + 4 * stored:
        raise ValueError(f"{path} refused: a bomb of {stored:,} bytes that claims {shown:,} bytes of weights")


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pkl":
        return load_pickle(path), {}
    return _read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def _read_torch(path: Path) -> Any:
    _refuse_zip_bomb(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _offending_global(path, str(error))
        raise ValueError(
            f"{path} refused: it asks for {name}; only weights are read, and nothing was run"
        ) from None
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a whole torch checkpoint: {reason}") from None


def _refuse_zip_bomb(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is not a whole torch checkpoint: {error}") from None
    stored = path.stat().st_size
    if unpacked > stored + ZIP_SLACK:
        raise ValueError(
            f"{path} refused: a zip bomb of {stored:,} bytes that unpacks to {unpacked:,}; "
            "torch stores weights uncompressed"
        )


def _offending_global(path: Path, message: str) -> str:
    """The global that torch refused, as its message or the archive's own pickle names it."""
    for pattern in (
        r"GLOBAL ([\w.]+)",
        r"Trying to load unsupported GLOBAL ([\w.]+)",
        r"callable object <[^>]*?([\w.]+)>",
    ):
        match = re.search(pattern, message)
        if match:
            return match[1]
    names = _globals_in(path)
    return names[0] if names else message.partition("\n")[0]


def _globals_in(path: Path) -> list[str]:
    """Globals of a torch file's pickle that are neither torch's nor plain containers."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.read(name)
        else:
            content = path.read_bytes()
        opcodes = [
            str(argument).replace(" ", ".")
            for opcode, argument, _ in pickletools.genops(content)
            if opcode.name in ("GLOBAL", "INST")
        ]
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile):
        return []
    return [name for name in opcodes if not name.startswith(("torch.", "collections.OrderedDict"))]

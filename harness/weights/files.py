"""Entries of a checkpoint file, read so that no code from it ever runs.

detectron2's ``.pkl`` and torch's ``.pth``, ``.pt`` and ``.bin`` go through
:mod:`harness.weights.safe_pickle`, ``.safetensors`` through safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmeter.harness.weights.kinds import SUFFIXES
from segmeter.harness.weights.names import to_tensor
from segmeter.harness.weights.pickle_calls import load_pickle
from segmeter.harness.weights.torch_file import load_torch_file

# Bytes of weights that a file may show beyond a few times its own size.
REPETITION = 1 << 31


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


def check_numbers(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """See that weights are finite real numbers before they go into a model.

    Raises:
        ValueError: they are complex, whole, or hold NaN, infinity or what float32 cannot hold; the first such
            entry is named, and how many there are.
    """
    kinds = {name: f"{tensor.dtype}".removeprefix("torch.") for name, tensor in tensors.items()}
    odd = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if odd:
        raise ValueError(f"{path}: {len(odd)} weights are no real numbers, e.g. {odd[0]} ({kinds[odd[0]]})")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise ValueError(f"{path}: {len(broken)} weights hold NaN or infinity, e.g. {broken[0]}")


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        # RT-DETR's files keep the averaged weights, which are the ones to run, one level deeper.
        content = content["ema"].get("module", content)
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
    return load_torch_file(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None

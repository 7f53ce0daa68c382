"""Weights and photographs that the official token-reducing models were run with."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

DATA = Path(__file__).parents[1] / "data"


def parity() -> tuple[dict[str, Any], Any]:
    """What the official modules gave: descriptions, and arrays by name."""
    described = json.loads((DATA / "reduction_parity.json").read_text())
    return described, np.load(DATA / "reduction_parity.npz")


def flops() -> dict[str, list[Any]]:
    """MACs per module group of the official modules."""
    return json.loads((DATA / "reduction_flops.json").read_text())


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An entry of a state dict, drawn by its name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    x = generator.standard_normal(shape).astype(np.float32) * np.float32(0.02)
    if name.endswith("running_var"):
        return np.float32(1) + np.abs(x)
    return np.float32(1) + x if len(shape) == 1 and name.endswith("weight") else x


def fill(module: nn.Module, factor: float = 1.0) -> None:
    """Give a module the recipe's weights; those of two dimensions or more times ``factor``."""
    with torch.no_grad():
        for name, entry in module.state_dict(keep_vars=True).items():
            if entry.is_floating_point():
                drawn = torch.from_numpy(weight(name, tuple(entry.shape)))
                entry.copy_(drawn * factor if entry.dim() > 1 else drawn)


def photo(name: str, height: int, width: int) -> np.ndarray:
    """A photograph of scikit-image or scikit-learn, (H, W, 3) uint8."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    in_sklearn = name in ("china", "flower")
    pixels = load_sample_image(f"{name}.jpg") if in_sklearn else getattr(data, name)()
    resized = Image.fromarray(pixels).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def images(names: list[str], side: int) -> Tensor:
    """(B, 3, H, W) photographs on -1..1."""
    batch = np.stack([photo(name, side, side) for name in names])
    return torch.from_numpy((batch.astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)

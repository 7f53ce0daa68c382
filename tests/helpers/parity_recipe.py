"""The deterministic weights and inputs that the official modules were run with.

Each entry of a state dict is drawn from a generator seeded by the CRC of its official name, so that a
module with the right names and shapes gets the official run's weights with nothing to download.
"""

import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def weight(name: str, shape: tuple[int, ...], variant: str = "base", salt: str = "") -> np.ndarray:
    x = np.random.default_rng(zlib.crc32((salt + name).encode())).standard_normal(shape)
    x = x.astype(np.float32)
    if name.endswith("sampling_offsets.bias"):
        return x * np.float32(1.5)
    if name.endswith("running_var"):
        return np.float32(1) + np.float32(0.05) * np.abs(x)
    if len(shape) == 1 and name.endswith("weight"):
        return np.float32(1) + np.float32(0.05) * x
    if variant == "base" or len(shape) < 2:
        return x * np.float32(0.05)
    fan_in = x / np.float32(math.sqrt(math.prod(shape[1:])))
    if variant == "full":
        return fan_in
    # "full_spread": queries that do not collapse to one output, masks that are balanced.
    if name.endswith(("query_feat.weight", "query_embed.weight")):
        return x
    if name.endswith("pixel_decoder.mask_features.weight"):
        return fan_in - fan_in.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    factor = 1.0
    if "predictor." in name and name.endswith("in_proj_weight"):
        factor = 2.0
    elif "predictor." in name and name.endswith(("out_proj.weight", "linear2.weight")):
        factor = 0.25
    return fan_in * np.float32(factor)


def feature(index: int, shape: tuple[int, ...]) -> torch.Tensor:
    draw = np.random.default_rng(1000 + index).standard_normal(shape)
    return torch.from_numpy(draw.astype(np.float32))


def image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def load_recipe(
    module: nn.Module,
    official_name: Callable[[str], str | None] = lambda name: name,
    variant: str = "base",
    salt: str = "",
) -> list[str]:
    """Fill a module with the recipe's weights, in place.

    ``official_name`` maps a name of ours to the official one, or to None where the official module has
    no such entry. Returns the official names used.
    """
    used = []
    with torch.no_grad():
        for name, entry in module.state_dict(keep_vars=True).items():
            official = official_name(name)
            if official is None or not entry.is_floating_point():
                continue
            entry.copy_(torch.from_numpy(np.asarray(weight(official, tuple(entry.shape), variant, salt))))
            used.append(official)
    return used

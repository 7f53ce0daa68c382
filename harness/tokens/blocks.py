"""How alike tokens are in each block of a system, in windows and across the image, and how pure in class.

The analysis behind ALGM: tokens of small windows resemble each other early, tokens anywhere later. For
systems that are not around an encoder, plain vision transformers above all, and models of libraries whose
blocks take tokens and give as many.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segmeter.encoders.images import normalise
from segmeter.harness.counting import count_images, images_record
from segmeter.harness.inputs import ImageSize, Photo, Size, format_size, open_photo, read_photo
from segmeter.harness.models import ModelSpec, find_token_layers, model_of, parse_model, real_model
from segmeter.harness.tokens.library_blocks import tell_tokens

SCHEMA = "segmeter.token_blocks/1"
SIDES = (2, 4)
IGNORED = 255
WHAT_IF_PHOTOS = 4
# Options that say what the model is, whatever reduces its tokens.
KEPT_OPTIONS = ("train_size", "head", "head_channels")


@dataclass
class Block:
    """What was seen of one block, image by image."""

    tokens: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def run_blocks(
    spec: ModelSpec,
    model: nn.Module,
    photos: Sequence[Photo],
    size: Size,
    threshold: float,
    *,
    weights: str,
    labels: Path | None = None,
    skipped: Sequence[str] = (),
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure the tokens that enter each block.

    Args:
        spec: the model.
        model: with its weights.
        photos: each resized to ``size``.
        size: of the network's input (H, W).
        threshold: cosine from which a window counts as alike.
        weights: where they are from.
        labels: a folder of PNGs of class ids, named as the photos; 255 is no class. None for none.
        skipped: photos that could not be read.
        step: called after each image.

    Returns:
        The record, ready for JSON.

    Raises:
        ValueError: a label that is missing or cannot be read, or a model without blocks that tell tokens.
    """
    if model_of(spec) is not None and not tell_tokens(model, size):
        raise ValueError(f"{spec.encoder} has no blocks that take tokens (B, T, C) and give as many")
    layers = find_token_layers(model)
    if not layers:
        raise ValueError(f"{spec.encoder_title} has no layers that tell their tokens")
    blocks = {path: Block() for path in layers}
    for photo in photos:
        pixels = spec.system.pixels
        image = normalise(read_photo(photo, size), pixels.mean, pixels.std)[None]
        classes = None if labels is None else _label(labels, photo, size)
        _one(model, image, blocks, threshold, classes)
        step()
    return {
        "schema": SCHEMA,
        "model": spec.text,
        "title": spec.title,
        "size": format_size(size),
        "weights": weights,
        "threshold": threshold,
        "images": [photo.name for photo in photos],
        "skipped": list(skipped),
        "interrupted": False,
        "blocks": [
            {
                "layer": path,
                "tokens": fmean(block.tokens),
                **{name: fmean(values) for name, values in block.values.items()},
                "std_images": {name: pstdev(values) for name, values in block.values.items()},
            }
            for path, block in blocks.items()
        ],
        "what_if": _what_if(spec, model, photos[:WHAT_IF_PHOTOS], size),
    }


@torch.inference_mode()
def _one(
    model: nn.Module, image: Tensor, blocks: dict[str, Block], threshold: float, classes: Tensor | None
) -> None:
    layers = find_token_layers(model)

    def note(path: str) -> Callable[..., None]:
        def after(layer: Any, inputs: Any, named: Any, output: Any) -> None:
            seen = layer.layer_tokens(*inputs, **named)
            block, x = blocks[path], seen.tokens
            block.tokens.append(x.shape[1])
            block.values["image_cosine"].append(mean_cosine(x).item())
            rows = output[1] if isinstance(output, tuple) else None
            for side in SIDES:
                if seen.sizes and all(length % side == 0 for length in seen.sizes[0]):
                    windows = mean_cosine(windowed(x, seen.sizes[0], side)[0])
                    block.values[f"window{side}_cosine"].append(windows.mean().item())
                    alike = (windows >= threshold).float().mean()
                    block.values[f"window{side}_alike"].append(alike.item())
                    if classes is not None:
                        counts = class_counts(classes, (seen.sizes[0][0] // side, seen.sizes[0][1] // side))
                        block.values[f"window{side}_purity"].append(purity(counts))
            # The library's own layers may hand on something else beside.
            merges = isinstance(rows, Tensor) and not rows.is_floating_point() and len(inputs) > 2
            if merges and rows is not None and classes is not None and bool((rows > 0).all()):
                grid = inputs[2]
                merged = torch.zeros((int(rows.max()) + 1, IGNORED), dtype=torch.float64)
                merged.index_add_(0, rows[0], class_counts(classes, grid))
                block.values["purity"].append(purity(merged))

        return after

    handles = [layer.register_forward_hook(note(path), with_kwargs=True) for path, layer in layers.items()]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine of the distinct pairs of tokens (B, T, C) -> (B,); 1 for a single token."""
    number = x.shape[1]
    if number < 2:
        return torch.ones(len(x))
    unit = F.normalize(x.double(), dim=-1)
    pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return pairs / (number * (number - 1))


def windowed(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Tokens of a grid (B, T, C) as windows (B, W, side * side, C)."""
    maps = x.unflatten(1, (grid[0] // side, side, grid[1] // side, side))
    return maps.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def class_counts(classes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels of each class in each cell: ids (H, W) -> (cells, 255), pixels without a class left out."""
    (height, width), (rows, columns) = classes.shape, grid
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    cell = row[:, None] * columns + column
    known = classes != IGNORED
    counts = torch.zeros(rows * columns * IGNORED, dtype=torch.float64)
    place = (cell * IGNORED + classes)[known]
    counts.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
    return counts.view(-1, IGNORED)


def purity(counts: Tensor) -> float:
    """Share of the pixels that have the commonest class of their token; 1 where none has a class.

    >>> purity(torch.tensor([[3.0, 1.0], [0.0, 4.0]]))
    0.875
    """
    total = counts.sum().item()
    return counts.max(1).values.sum().item() / total if total else 1.0


def _label(folder: Path, photo: Photo, size: Size) -> Tensor:
    path = folder / f"{Path(photo.name).stem}.png"
    try:
        with open_photo(path) as opened:
            if opened.mode not in ("L", "P"):
                raise ValueError(f"mode {opened.mode}, expected one byte for each pixel")
            resized = opened.resize((size[1], size[0]), Image.Resampling.NEAREST)
            return torch.from_numpy(np.asarray(resized).astype(np.int64))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read label {path}: {error}") from None


def _what_if(spec: ModelSpec, model: nn.Module, photos: Sequence[Photo], size: Size) -> list[dict[str, Any]]:
    """GMACs with each reducer's published settings, on the first photos, with the model's own weights.

    The model itself comes last where it is none of them: other options, or a reducer of the user's own. STEP
    is left out: how many tokens its networks take is nothing without trained ones, and none are public.
    """
    name = spec.system.code_option
    given = dict(spec.options)
    defaults = spec.system.settings.defaults
    kept = [f":{each}={given[each]}" for each in KEPT_OPTIONS if given.get(each) != defaults.get(each)]
    begin = f"{spec.encoder}@{spec.backbone}{''.join(kept)}:{name}="
    others = [parse_model(begin + value, num_classes=spec.num_classes) for value in spec.system.compared]
    if spec.text not in [other.text for other in others]:
        others.append(spec)
    found: list[dict[str, Any]] = []
    for other in others:
        row: dict[str, Any] = {"model": other.text, "title": other.encoder_title}
        found.append(row)
        try:
            filled, random = (model, []) if other is spec else _with_weights_of(model, real_model(other))
            record = images_record(
                count_images(other, ImageSize(size, size), photos, "published", model=filled)
            )
        except ValueError as error:
            row["error"] = str(error)
            continue
        spread = record["spread"]["total"]
        row |= {
            "total_gmacs": record["total_gmacs"],
            "range_gmacs": [spread["min"], spread["max"]],
            "images": len(record["images"]),
            "random_parts": random,
        }
    return found


def _with_weights_of(model: nn.Module, other: nn.Module) -> tuple[nn.Module, list[str]]:
    """The other with all weights that it shares with the model, and which of its parts have none from it."""
    entries, own = model.state_dict(), other.state_dict()
    shared = {
        name: entries[name] for name in own if name in entries and entries[name].shape == own[name].shape
    }
    other.load_state_dict(shared, strict=False)
    return other, sorted({".".join(name.split(".")[:3]) for name in own if name not in shared})

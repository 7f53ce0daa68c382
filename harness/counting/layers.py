"""What each layer of a deformable encoder costs, level by level."""

from collections import defaultdict
from collections.abc import Sequence
from math import log2
from typing import Any

import torch

from segmeter.encoders.interface import LayerTokens
from segmeter.harness.counting.conventions import units_of
from segmeter.harness.counting.work import work_of
from segmeter.harness.inputs import ImageSize, Size
from segmeter.harness.models import LayerCall, ModelSpec, component_finder, meta_model, watch_token_layers

LAYERS = "encoder.transformer.encoder.layers."


def layer_costs(spec: ModelSpec, size: ImageSize) -> dict[str, Any]:
    """GMACs of each transformer layer, shared out over the levels of its tokens, from low to high resolution.

    The projection of values falls to the levels whose tokens are values, all else to those whose tokens are
    queries, each in proportion to their tokens.

    Returns:
        {"label", "model", "strides": of the levels, "layers": one list of GMACs by level for each layer,
        "updated": one list of booleans by level: whether the layer updates its tokens}.

    Raises:
        ValueError: an encoder that has no such layers.
    """
    find = component_finder(meta_model(spec))
    by_layer: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for work in work_of(spec, size).work:
        if work.module.startswith(LAYERS):
            number, _, module = work.module.removeprefix(LAYERS).partition(".")
            by_layer[int(number)][module] += units_of(work, find(work.module), "published")
    if not by_layer:
        raise ValueError(f"{spec.encoder_title} has no deformable encoder layers")
    calls = _calls(spec, size)
    levels = sorted({level for call in calls.values() for level in call.sizes})
    layers, updated = [], []
    for path, inside in sorted(by_layer.items()):
        call = calls[path]
        values = _shares(call.sizes, 0, call.tokens.shape[1])
        queries = _shares(call.sizes, call.first, call.updated)
        rest = sum(inside.values()) - inside["self_attn.value_proj"]
        shares = [
            inside["self_attn.value_proj"] * values.get(level, 0) + rest * queries.get(level, 0)
            for level in levels
        ]
        layers.append([units / 1e9 for units in shares])
        updated.append([level in queries for level in levels])
    return {
        "label": spec.encoder_title,
        "model": spec.text,
        "strides": [2 ** round(log2(size.padded[0] / height)) for height, _ in levels],
        "layers": layers,
        "updated": updated,
    }


def _calls(spec: ModelSpec, size: ImageSize) -> dict[int, LayerTokens]:
    """What each layer says of its tokens, by its number from 0."""
    found: dict[int, LayerTokens] = {}

    def see(call: LayerCall) -> None:
        found[int(call.path.rpartition(".")[2])] = call.tokens

    model = meta_model(spec)
    with torch.no_grad(), watch_token_layers(model, see):
        model(torch.empty((1, 3, *size.padded), device="meta"))
    return found


def _shares(levels: Sequence[Size], first: int, count: int) -> dict[Size, float]:
    """Share of each whole level in ``count`` tokens from ``first`` on."""
    found, start = {}, 0
    for height, width in levels:
        if first <= start < first + count:
            found[(height, width)] = height * width / count
        start += height * width
    if abs(sum(found.values()) - 1) > 1e-9:
        raise ValueError(f"{count} tokens from {first} on are not those of whole levels of {list(levels)}")
    return found

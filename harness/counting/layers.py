"""What each layer of a deformable encoder costs, level by level."""

from collections import defaultdict
from itertools import accumulate
from typing import Any

import torch

from segmeter.encoders.interface import LayerTokens
from segmeter.harness.counting.conventions import units_of
from segmeter.harness.counting.work import work_of
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import LayerCall, ModelSpec, component_finder, meta_model, watch_token_layers

LAYERS = "encoder.transformer.encoder.layers."
STRIDES = (32, 16, 8)


def layer_costs(spec: ModelSpec, size: ImageSize) -> dict[str, Any]:
    """GMACs of each transformer layer, shared out over the levels (stride 32, 16, 8) of its tokens.

    The projection of values falls to the levels whose tokens are values, all else to those whose tokens are
    queries, each in proportion to their tokens.

    Returns:
        {"label", "model", "layers": one list of three GMACs for each layer, "updated": one list of three
        booleans: whether the layer updates the level's tokens}.

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
    layers, updated = [], []
    for path, inside in sorted(by_layer.items()):
        tokens = [height * width for height, width in calls[path].sizes]
        values = _levels(calls[path].tokens.shape[1], tokens)
        queries = _levels(calls[path].updated, tokens)
        rest = sum(inside.values()) - inside["self_attn.value_proj"]
        shares = [
            inside["self_attn.value_proj"] * value + rest * query
            for value, query in zip(values, queries, strict=True)
        ]
        layers.append([units / 1e9 for units in shares])
        updated.append([share > 0 for share in queries])
    return {"label": spec.encoder_title, "model": spec.text, "layers": layers, "updated": updated}


def _calls(spec: ModelSpec, size: ImageSize) -> dict[int, LayerTokens]:
    """What each layer says of its tokens, by its number from 0."""
    found: dict[int, LayerTokens] = {}

    def see(call: LayerCall) -> None:
        found[int(call.path.rpartition(".")[2])] = call.tokens

    model = meta_model(spec)
    with torch.no_grad(), watch_token_layers(model, see):
        model(torch.empty((1, 3, *size.padded), device="meta"))
    return found


def _levels(count: int, tokens: list[int]) -> list[float]:
    """Share of each level in the first ``count`` tokens, padded with 0 to three levels."""
    for levels, total in enumerate(accumulate(tokens), start=1):
        if total == count:
            return [n / count for n in tokens[:levels]] + [0.0] * (len(STRIDES) - levels)
    raise ValueError(f"{count} tokens are not those of whole levels of {tokens}")

"""What each layer of a deformable encoder costs, level by level."""

from collections import defaultdict
from itertools import accumulate
from typing import Any

from segmeter.harness.counting.conventions import units_of
from segmeter.harness.counting.count import meta_model, work_of
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.spec import ModelSpec

LAYERS = "encoder.transformer.encoder.layers."
CHANNELS = 256
STRIDES = (32, 16, 8)


def layer_costs(spec: ModelSpec, size: ImageSize) -> dict[str, Any]:
    """GMACs of each transformer layer, shared out over the levels (stride 32, 16, 8) of its tokens.

    The projection of values falls to the levels whose tokens are values, all else to those whose tokens are
    queries, each in proportion to their tokens. How many tokens a layer reads and updates follows from its
    own work: a 256 x 256 projection costs 65,536 for each token.

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
    height, width = size.padded
    tokens = [(height // stride) * (width // stride) for stride in STRIDES]
    layers, updated = [], []
    for _, inside in sorted(by_layer.items()):
        values, queries = (
            _levels(inside[f"self_attn.{name}"] // CHANNELS**2, tokens)
            for name in ("value_proj", "output_proj")
        )
        rest = sum(inside.values()) - inside["self_attn.value_proj"]
        shares = [
            inside["self_attn.value_proj"] * values[level] + rest * queries[level]
            for level in range(len(tokens))
        ]
        layers.append([units / 1e9 for units in shares])
        updated.append([share > 0 for share in queries])
    return {"label": spec.encoder_title, "model": spec.text, "layers": layers, "updated": updated}


def _levels(count: int, tokens: list[int]) -> list[float]:
    """Share of each level in the first ``count`` tokens, which are those of whole levels."""
    for levels, total in enumerate(accumulate(tokens), start=1):
        if total == count:
            return [n / count for n in tokens[:levels]] + [0.0] * (len(tokens) - levels)
    raise ValueError(f"{count} tokens are not those of whole levels of {tokens}")

"""From sums over images to the record that ``segmeter tokens`` writes and ``reports`` reads.

Schema ``segmeter.tokens/1``. Similarities are cosines; numbers that cannot be given are None. ``std_images``
is the sample standard deviation over images, ``std_pairs`` the standard deviation over all pairs of tokens.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np

from segmeter.harness.inputs import Size, format_size
from segmeter.harness.models import ModelSpec
from segmeter.harness.tokens.layers import SCALE_STRIDES
from segmeter.harness.tokens.maps import WINDOWS, Settings, Tally
from segmeter.harness.tokens.merge_cost import encoder_cost, matching_gmacs

SCHEMA = "segmeter.tokens/1"
# Token Merging's step merges at most one half of the tokens; a 2x2 window becomes one of its four.
RULES = {
    "bipartite": "one bipartite step (Token Merging): of two halves, tokens of the first join their match",
    "windows": "2x2 windows (ALGM's local step): a window of alike tokens becomes one token",
}


class Value(TypedDict):
    """Mean over images, and their sample standard deviation (None below two images)."""

    mean: float | None
    std_images: float | None


class MapRecord(TypedDict):
    """One scale at one place; counts are means over images, shares are at the settings' thresholds."""

    scale: str
    stride: int
    channels: int
    tokens: float
    zero_tokens: float
    sampled_tokens: float
    sequence: dict[str, Any]
    rings: dict[str, Any]
    windows: list[dict[str, Any]]
    nearest: dict[str, Any]
    bipartite: dict[str, Any]
    effective_rank: Value
    clusters: dict[str, Any]
    change: dict[str, Any] | None


class PlaceRecord(TypedDict):
    """The backbone, a layer, or the encoder's output; tokens are None but for layers."""

    name: str
    updated_tokens: float | None
    seen_tokens: float | None
    scales: dict[str, MapRecord]


class TokensRecord(TypedDict):
    """One run of ``segmeter tokens``."""

    schema: str
    backbone: str
    encoder: str | None
    encoder_title: str | None
    weights: dict[str, dict[str, Any] | None]
    images: list[dict[str, Any]]
    skipped: list[str]
    interrupted: bool
    requested_images: int
    resize_rule: dict[str, int]
    padded_sizes: dict[str, int]
    settings: dict[str, Any]
    places: list[PlaceRecord]
    ordering: list[dict[str, Any]]
    what_if: dict[str, Any]
    examples: list[dict[str, Any]]
    seconds: dict[str, float]
    memory: dict[str, int | None]
    environment: dict[str, Any]


def map_record(scale: str, tally: Tally, channels: int, settings: Settings) -> MapRecord:
    """One scale at one place."""
    pairs = tally.mean("sequence.square") - tally.mean("sequence") ** 2
    record: MapRecord = {
        "scale": scale,
        "stride": SCALE_STRIDES[scale],
        "channels": channels,
        "tokens": float(tally.mean("tokens")),
        "zero_tokens": float(tally.mean("zeros")),
        "sampled_tokens": float(tally.mean("sampled")),
        "sequence": {**_curve(tally, "sequence"), "std_pairs": _numbers(np.sqrt(np.maximum(pairs, 0.0)))},
        "rings": _curve(tally, "rings"),
        "windows": [
            {
                "side": side,
                **_value(tally, f"windows.{side}"),
                "share": _numbers(tally.mean(f"windows.{side}.share")),
            }
            for side in WINDOWS
        ],
        "nearest": {**_value(tally, "nearest"), "share": _numbers(tally.mean("nearest.share"))},
        "bipartite": {**_value(tally, "bipartite"), "share": _numbers(tally.mean("bipartite.share"))},
        "effective_rank": _value(tally, "effective_rank"),
        "clusters": {**_value(tally, "clusters"), "threshold": settings.threshold},
        "change": None,
    }
    if "change" in tally:
        record["change"] = {**_value(tally, "change"), "share": _number(tally.mean("change.share"))}
    return record


def ordering(scales: Mapping[str, Mapping[str, Any]], width: int) -> list[dict[str, Any]]:
    """Whether each scale's curve lies above the next smaller one's at equal distance, pair by pair.

    Args:
        scales: records by scale.
        width: of the narrowest input in pixels. Along the sequence, the distances up to half a row of the
            smaller scale are also counted apart (``near``): farther ones come near the row below.
    """
    found = []
    for larger, smaller in pairwise(sorted(scales)):
        for kind in ("sequence", "rings"):
            differences = [
                a - b
                for a, b in zip(scales[larger][kind]["mean"], scales[smaller][kind]["mean"], strict=True)
                if a is not None and b is not None
            ]
            near = width // scales[smaller]["stride"] // 2 if kind == "sequence" else len(differences)
            if differences:
                found.append(
                    {
                        "larger": larger,
                        "smaller": smaller,
                        "curve": kind,
                        "distances": len(differences),
                        "above": sum(d > 0 for d in differences),
                        "near": min(near, len(differences)),
                        "above_near": sum(d > 0 for d in differences[:near]),
                        "mean_difference": sum(differences) / len(differences),
                        "at_1": differences[0],
                    }
                )
    return found


def what_if(
    specs: Sequence[ModelSpec],
    channels: Mapping[str, int],
    padded: Size,
    scales: Mapping[str, Mapping[str, Any]],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Tokens removable at each threshold, per scale, and the encoder GMACs that would go with them."""
    encoders = []
    for spec in specs:
        costs = encoder_cost(spec, channels, padded)
        by_scale = {}
        for cost in costs:
            if cost.scale not in scales:
                continue
            removable = removable_shares(scales[cost.scale])
            by_scale[cost.scale] = {
                "tokens": cost.tokens,
                "note": cost.note,
                "curve": {"removed": list(cost.removed), "gmacs": list(cost.gmacs)},
                "saved_gmacs": {
                    rule: [None if s is None else cost.saved(s) if cost.gmacs else None for s in shares]
                    for rule, shares in removable.items()
                },
            }
        encoders.append(
            {
                "encoder": spec.encoder,
                "title": spec.encoder_title,
                "gmacs": next((cost.gmacs[0] for cost in costs if cost.gmacs), None),
                "scales": by_scale,
            }
        )
    return {
        "size": format_size(padded),
        "convention": "published",
        "rules": RULES,
        "thresholds": list(thresholds),
        "removable": {
            scale: {
                **removable_shares(record),
                "matching_gmacs": {
                    rule: matching_gmacs(record["tokens"], record["channels"], rule) for rule in RULES
                },
            }
            for scale, record in scales.items()
        },
        "encoders": encoders,
    }


def removable_shares(record: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Share of a scale's tokens that each rule removes, at each threshold."""
    windows = next(w for w in record["windows"] if w["side"] == 2)
    return {
        "bipartite": [None if s is None else s / 2 for s in record["bipartite"]["share"]],
        "windows": [None if s is None else 0.75 * s for s in windows["share"]],
    }


def _curve(tally: Tally, name: str) -> dict[str, Any]:
    mean = tally.mean(name)
    return {
        "distance": list(range(1, len(mean) + 1)),
        "mean": _numbers(mean),
        "std_images": _numbers(tally.std(name)),
        "images": [int(n) for n in tally.count(name)],
    }


def _value(tally: Tally, name: str) -> Value:
    return {"mean": _number(tally.mean(name)), "std_images": _number(tally.std(name))}


def _number(value: np.ndarray) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]

"""Verify a card: count its models again, and see whether times agree where they can be compared.

A card is somebody's file. It may name segmeter's own models, and models of installed libraries by a plain
name; code of anybody's is counted only where the user names it beside the card.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmeter.harness.card.make import SETTINGS, card_model
from segmeter.harness.card.photos import digest, named_photos
from segmeter.harness.counting import versions
from segmeter.harness.inputs import ImageSize, Photo
from segmeter.harness.models import ModelSpec, parse_model
from segmeter.harness.records import Card, CardModel, Cost, Measured, PhotoCosts
from segmeter.model_text import is_library_name
from segmeter.plain import plain, shown

CHECK_SCHEMA = "segmeter.card_check/1"
VERIFIED, DIFFERS = "verified", "differs"
AGREE, DISAGREE, INCOMPARABLE, NOT_TIMED = "agree", "do not agree", "cannot be compared", "not timed again"
# Differences of one model that are told; all are counted.
TOLD = 50
# What makes two machines of one kind: where it is in a record's environment, and its name.
MACHINE = (
    ("device", "device"),
    ("device_name", "name of the device"),
    ("system", "system"),
    ("threads", "threads"),
    ("cpu.usable_cores", "cores"),
    ("settings.cpu_capability", "vector instructions"),
    ("gpu.name", "GPU"),
    ("gpu.capability", "the GPU's capability"),
    ("gpu.multiprocessors", "the GPU's multiprocessors"),
)
# Left out of what must be equal: it says how the machine has been used, not how it was timed.
LOOSE = ("keep_memory",)


def verify_card(
    card: Card,
    models: Sequence[ModelSpec] = (),
    step: Callable[[str], None] = lambda what: None,
    photos: Sequence[Path] = (),
    weights: Path | None = None,
) -> dict[str, Any]:
    """Count a card's models again.

    Args:
        card: as read.
        models: what to count instead of what the card names, in its order; the only way to code of one's own.
        step: called with what is counted next.
        photos: files and folders among which the photos are that the card names by their digests.
        weights: the checkpoint that the card names by its digest.

    Returns:
        The record of the check, ready for JSON: ``verdict``, and for each model its differences.

    Raises:
        ValueError: the card names a model that is not counted from a file, or that is not known here.
    """
    if models and len(models) != len(card["models"]):
        raise ValueError(
            f"the card has {len(card['models'])} models, {len(models)} are given beside it; give all or none"
        )
    found = []
    for place, entry in enumerate(card["models"]):
        step(entry["title"])
        spec = models[place] if models else named(entry)
        found.append(_verified(entry, spec, photos, weights))
    here = versions()
    differs = any(one["differences"] for one in found)
    return {
        "schema": CHECK_SCHEMA,
        "verdict": DIFFERS if differs else VERIFIED,
        "models": found,
        "versions": {
            name: [card["made_with"].get(name), here.get(name)]
            for name in here
            if card["made_with"].get(name) != here.get(name)
        },
    }


def named(entry: CardModel) -> ModelSpec:
    """The model that a card names.

    Raises:
        ValueError: code of anybody's, an unknown model, or one that cannot be built here.
    """
    text = entry["model"]
    queries = entry["num_queries"] or None
    try:
        return parse_model(
            text, num_classes=entry["num_classes"] or 1, num_queries=queries, own=is_library_name(text)
        )
    except (OSError, ImportError) as error:
        raise ValueError(f"{plain(text)} cannot be counted here: {plain(error)}") from None


def _verified(
    entry: CardModel, spec: ModelSpec, paths: Sequence[Path], weights: Path | None
) -> dict[str, Any]:
    size = ImageSize(_pair(entry["input"]["padded_size"]), _pair(entry["input"]["original_size"]))
    photos: Sequence[Photo] = ()
    if "photos" in entry:
        photos = named_photos(entry["photos"], paths)
        _same_weights(entry["photos"], weights)
    counted = card_model(spec, size, None, photos, weights if photos else None)
    differences = _photo_differences(entry, counted)
    by_convention = {cost["convention"]: cost for cost in counted["cost"]}
    for cost in entry["cost"]:
        differences += _cost_differences(cost, by_convention[cost["convention"]])
    for part in ("total", "encoder"):
        a, b = entry["parameters"][part], counted["parameters"][part]
        if a != b:
            differences.append(_difference(f"parameters, {part}", a, b))
    photo_figures = 3 * len(entry["photos"]["images"]) if "photos" in entry else 0
    figures = photo_figures + sum(
        2 + len(cost["components"]) + len(cost["not_counted"]) for cost in entry["cost"]
    )
    return {
        "model": entry["model"],
        "title": entry["title"],
        "size": size.padded,
        "figures": figures + photo_figures,
        "differences": differences[:TOLD],
        "left_out": max(0, len(differences) - TOLD),
        "totals": {cost["convention"]: [cost["total"], cost["unit"]] for cost in counted["cost"]},
    }


def _same_weights(photos: PhotoCosts, weights: Path | None) -> None:
    """Raise ValueError where the weights are not the card's: other weights make other choices."""
    said = photos["weights_sha256"]
    if said is None and weights is not None:
        raise ValueError(f"the card's costs are of weights that are {photos['weights']}; leave --weights out")
    if said is not None and weights is None:
        raise ValueError(f"the card's costs are of {plain(photos['weights'])}; give it with --weights")
    if said is not None and weights is not None and digest(weights) != said:
        raise ValueError(f"{weights} is not the card's {plain(photos['weights'])}: its digest is another")


def _photo_differences(entry: CardModel, counted: CardModel) -> list[dict[str, Any]]:
    """Photos whose cost is another; a model that depends on photos on one side alone."""
    if ("photos" in entry) != ("photos" in counted):
        here, there = ("depends", "does not") if "photos" in entry else ("does not", "depends")
        return [_difference("whether work depends on the image", here, there)]
    if "photos" not in entry:
        return []
    return [
        _difference(
            f"{convention}, photo {one['name']}", one["totals"][convention], again["totals"][convention]
        )
        for one, again in zip(entry["photos"]["images"], counted["photos"]["images"], strict=True)
        for convention in one["totals"]
        if one["totals"][convention] != again["totals"][convention]
    ]


def _cost_differences(cost: Cost, counted: Cost) -> list[dict[str, Any]]:
    where = cost["convention"]
    pairs: dict[str, tuple[Any, Any]] = {"total": (cost["total"], counted["total"])}
    pairs["range"] = (cost.get("range"), counted.get("range"))
    parts, again = cost["components"], counted["components"]
    pairs |= {name: (parts.get(name), again.get(name)) for name in {**again, **parts}}
    omitted, over = cost["not_counted"], counted["not_counted"]
    for name in {**over, **omitted}:
        pairs[f"not counted: {name}"] = (_omission(omitted, name), _omission(over, name))
    return [_difference(f"{where}, {name}", a, b) for name, (a, b) in pairs.items() if a != b]


def _omission(found: Mapping[str, Any], name: str) -> Any:
    """An amount; whether it is there at all where nobody knows how much."""
    if name not in found:
        return None
    amount = found[name]["amount"]
    return "unknown" if amount is None else amount


def _difference(figure: str, card: Any, counted: Any) -> dict[str, Any]:
    return {"figure": figure, "card": card, "counted": counted}


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def compare_times(card: Measured, now: Measured | None) -> dict[str, Any]:
    """Whether a time measured now agrees with a card's, within both intervals.

    Times of another kind of machine, or taken otherwise, are not compared: ``why`` says in what they differ.
    """
    before = card["latency_ms"]
    if now is None:
        return {"verdict": NOT_TIMED, "why": [], "card": before, "now": None, "software": []}
    why = [
        f"{title} {_said(card['environment'], path)} on the card, {_said(now['environment'], path)} here"
        for path, title in MACHINE
        if _inside(card["environment"], path) != _inside(now["environment"], path)
    ]
    why += [
        f"{name.replace('_', ' ')} {shown(card['settings'].get(name))} on the card, "
        f"{shown(now['settings'].get(name))} here"
        for name in SETTINGS
        # A CPU's threads are the machine's, named above; "cuda" and "cuda:0" are one device.
        if name not in (*LOOSE, "device", "threads")
        and card["settings"].get(name) != now["settings"].get(name)
    ]
    after = now["latency_ms"]
    together = before["low"] <= after["high"] and after["low"] <= before["high"]
    return {
        "verdict": INCOMPARABLE if why else AGREE if together else DISAGREE,
        "why": why,
        "card": before,
        "now": after,
        "software": [
            f"{name} {_said(card['environment'], f'versions.{name}')} on the card, "
            f"{_said(now['environment'], f'versions.{name}')} here"
            for name in ("torch", "segmeter")
            if _inside(card["environment"], f"versions.{name}")
            != _inside(now["environment"], f"versions.{name}")
        ],
    }


def _inside(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _said(content: Any, path: str) -> str:
    found = _inside(content, path)
    return "unknown" if found is None else shown(found)

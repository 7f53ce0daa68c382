"""Efficiency cards: what a model costs, as one file that anybody can count again; needs no torch.

The schema is ``results/card.schema.json``. A card may come from anywhere: it is read within bounds, held to
its schema, and its totals to the sum of their parts.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from segmeter.files import check_regular, read_json
from segmeter.harness.records.runs import Run
from segmeter.plain import plain

CARD_SCHEMA = "segmeter.card/1"
# A card of twenty models with every component has a fiftieth.
MAX_BYTES = 1 << 24
MAX_MESSAGE = 200
# Photos of one model.
MOST_PHOTOS = 10_000


class NotCounted(TypedDict):
    """Work that a convention leaves out; ``amount`` in the cost's unit, None where nobody knows."""

    amount: int | None
    reason: str


class Cost(TypedDict):
    """One model's cost in one convention: whole MACs or FLOPs; ``components`` add up to ``total``."""

    convention: str
    text: str
    unit: str
    total: int
    components: dict[str, int]
    # The least and the most that branches (torch.cond) leave possible.
    range: NotRequired[list[int]]
    not_counted: dict[str, NotCounted]
    source: str


class Measured(TypedDict):
    """What one run took; times in ms, memory in bytes, energy in J an image."""

    record: str
    time: str
    settings: dict[str, Any]
    latency_ms: dict[str, float]
    images_per_s: float | None
    components_ms: dict[str, dict[str, float | None]]
    memory: dict[str, Any]
    energy: dict[str, Any]
    environment: dict[str, Any]
    source: str


class PhotoCosts(TypedDict):
    """The photos that a cost is of: ``totals`` of each, by convention; the model's cost is their sum.

    ``weights_sha256`` is the checkpoint's, None for random weights.
    """

    reason: str
    weights: str
    weights_sha256: str | None
    images: list[dict[str, Any]]
    source: str


class CardModel(TypedDict):
    """One model at one input size; with ``photos`` its costs are of all of them together."""

    model: str
    title: str
    kind: str
    num_classes: int
    num_queries: int
    input: dict[str, Any]
    cost: list[Cost]
    parameters: dict[str, Any]
    measured: Measured | None
    photos: NotRequired[PhotoCosts]


class Card(TypedDict):
    """The whole file."""

    schema: str
    made: str
    made_with: dict[str, str]
    models: list[CardModel]


@cache
def card_schema() -> dict[str, Any]:
    """The published schema."""
    text = files("segmeter.results").joinpath("card.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        ValueError: missing, no regular file, beyond reason in size, no JSON, not of the schema, or with
            a total that is not the sum of its components; one line.
    """
    try:
        check_regular(path, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return card_from(read_json(path, "card"))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"card {path}: {said}") from None


def card_from(content: Any) -> Card:
    """A card from a file's content.

    Raises:
        ValueError: as :func:`read_card`.
    """
    from jsonschema import Draft202012Validator

    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != CARD_SCHEMA:
        raise ValueError(f"schema is {_short(repr(schema))}, expected {CARD_SCHEMA}")
    try:
        # Python reads 1e999 as infinity, which is a number to the schema.
        json.dumps(content, allow_nan=False)
        error = next(Draft202012Validator(card_schema()).iter_errors(content), None)
        where = "" if error is None else ".".join(map(str, error.absolute_path)) or "the card"
        said = "" if error is None else error.message
    except RecursionError:
        raise ValueError("nested beyond reason") from None
    if error is not None:
        raise ValueError(f"{_short(where)}: {_short(said)}")
    card: Card = content
    for model in card["models"]:
        for cost in model["cost"]:
            check_sum(model["model"], cost)
            _check_photos(model, cost)
    return card


def _check_photos(model: CardModel, cost: Cost) -> None:
    """Raise ValueError where a cost is not the sum of its photos'."""
    if "photos" not in model:
        return
    totals = [one["totals"].get(cost["convention"]) for one in model["photos"]["images"]]
    if None in totals or sum(totals) != cost["total"]:
        raise ValueError(
            f"{_short(model['model'])}, {cost['convention']}: the total is not the sum of the photos' costs"
        )


def images_of(model: CardModel) -> int:
    """The number of images that the costs are of: photos, or one."""
    return len(model["photos"]["images"]) if "photos" in model else 1


def check_sum(model: str, cost: Cost) -> None:
    """Hold a total to its components.

    Raises:
        ValueError: they do not add up.
    """
    parts = sum(cost["components"].values())
    if parts != cost["total"]:
        raise ValueError(
            f"{_short(model)}, {cost['convention']}: the total is {cost['total']:,} {cost['unit']}, its "
            f"components add up to {parts:,}"
        )


def component_cost(cost: Cost, component: str) -> int:
    """Units of work of a component with everything below it."""
    below = f"{component}."
    return sum(
        units for name, units in cost["components"].items() if name == component or name.startswith(below)
    )


def top_components(cost: Cost) -> dict[str, int]:
    """The outermost components, in the order in which they are written, each with all below it."""
    found: dict[str, int] = {}
    for name, units in cost["components"].items():
        top = name.partition(".")[0]
        found[top] = found.get(top, 0) + units
    return found


def run_of_card(model: CardModel) -> Run | None:
    """What a card says of a measurement as a run's record; None where nothing was measured."""
    taken = model["measured"]
    if taken is None:
        return None
    return Run(
        id=taken["record"],
        time=taken["time"],
        kind="profile",
        status="ok",
        model=model["model"],
        title=model["title"],
        settings={**taken["settings"], "num_classes": model["num_classes"]},
        figures={"fps": taken["images_per_s"]},
        statistics={"latency_ms": dict(taken["latency_ms"])},
        environment=taken["environment"],
    )


def _short(text: str) -> str:
    line = plain(text)
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}..."

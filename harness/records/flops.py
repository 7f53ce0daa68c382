"""Records: one plain, typed, self-contained object for each measurement.

A record is what ``--json`` prints and what ``reports`` reads; it needs no torch. Its keys are a contract:
``total_gmacs`` and every ``gmacs`` are in the convention's unit, which ``unit`` names (GMACs, or GFLOPs
under the ``flops`` convention).
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

SCHEMA = "segmeter.flops/1"
GIGA = 1e9


class Component(TypedDict):
    """Work of one component with everything below it; ``parts`` add up to it with its own share."""

    gmacs: float
    parts: dict[str, "Component"]


class Spread(TypedDict):
    """Over a data set's images, in the record's unit."""

    mean: float
    std: float
    min: float
    max: float


class FlopsRecord(TypedDict):
    """One model's cost at one size, or its mean over a data set's images."""

    schema: str
    model: str
    title: str
    encoder: str
    encoder_title: str
    encoder_options: dict[str, Any]
    backbone: str
    num_classes: int
    num_queries: int
    convention: str
    convention_text: str
    unit: str
    total_gmacs: float
    components: dict[str, Component]
    by_operator: dict[str, float]
    not_counted: dict[str, float | None]
    not_counted_reasons: dict[str, str]
    coverage: float
    params: int
    encoder_params: int
    size: str
    padded_size: list[int] | None
    original_size: list[int] | None
    dataset: NotRequired[dict[str, Any]]
    spread: NotRequired[dict[str, Spread]]
    # Why the figures are a mean over photos: the model's work depends on its input.
    input_dependent: NotRequired[str]
    versions: dict[str, str]


def component_tree(by_component: Mapping[str, float]) -> dict[str, Component]:
    """Nest dotted component figures (units of work) into a tree of giga-units.

    >>> component_tree({"encoder.ffn": 2e9, "encoder.norms": 1e9})["encoder"]["gmacs"]
    3.0
    """
    root: dict[str, Component] = {}
    for path, units in by_component.items():
        level = root
        for name in path.split("."):
            node = level.setdefault(name, {"gmacs": 0.0, "parts": {}})
            node["gmacs"] += units / GIGA
            level = node["parts"]
    return root


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: it is there whole, or not at all.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_text`, for bytes."""
    write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """As :func:`write_bytes`, part after part, so that the whole need not fit into memory."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_text(path, to_json(content))


def to_json(content: Any) -> str:
    """Indented JSON text with a final newline; NaN is refused rather than written."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

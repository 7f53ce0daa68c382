"""Every record of a folder, whatever it measures; damaged files are named, not fatal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from segmeter.files import read_bytes
from segmeter.harness.records.card import CARD_SCHEMA, Card, card_from
from segmeter.harness.records.runs import MAX_BYTES, SCHEMA_NAME, SCHEMA_VERSION, Damaged, Run, run_from
from segmeter.plain import one_line, shown

QUALITY_SCHEMA = "segmeter.quality/1"


@dataclass
class Records:
    """What a folder holds.

    Attributes:
        runs: timings, oldest first, each with its file.
        qualities: contents of quality records, each with its file, by name.
        cards: efficiency cards, each with its file, by name.
        others: JSON files of another kind.
        damaged: files that are no record, or a broken one.
    """

    runs: list[tuple[Path, Run]] = field(default_factory=list)
    qualities: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    cards: list[tuple[Path, Card]] = field(default_factory=list)
    others: list[Damaged] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)


def read_folder(folder: Path, *, below: bool = True) -> Records:
    """Read the records of a folder, and with ``below`` of the folders in it; hidden files are passed over.

    Raises:
        OSError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no records: {folder} is not a folder")
    found = Records()
    _read_all(folder, below, found)
    return found


def read_paths(paths: Sequence[Path]) -> Records:
    """As :func:`read_folder`, of several folders and files, each file once.

    Raises:
        ValueError: a path that is not there.
    """
    found = Records()
    for path in paths:
        if path.is_dir():
            _read_all(path, True, found)
        elif path.exists():
            _try(path, found)
        else:
            raise ValueError(f"no records: {path} is neither a file nor a folder")
    for name in ("runs", "qualities", "cards"):
        kept = getattr(found, name)
        setattr(found, name, list({path.resolve(): (path, content) for path, content in kept}.values()))
    found.runs.sort(key=lambda pair: (pair[1].time, pair[1].id))
    return found


def _read_all(folder: Path, below: bool, found: Records) -> None:
    for path in sorted(folder.rglob("*.json") if below else folder.glob("*.json")):
        if not path.name.startswith("."):
            _try(path, found)
    found.runs.sort(key=lambda pair: (pair[1].time, pair[1].id))


def _try(path: Path, found: Records) -> None:
    try:
        _read(path, found)
    except (ValueError, OSError, RecursionError) as error:
        found.damaged.append(Damaged(path, one_line(error)))


def _read(path: Path, found: Records) -> None:
    try:
        content = orjson.loads(read_bytes(path, MAX_BYTES))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    schema = str(content.get("schema", "")) if isinstance(content, dict) else ""
    if schema == QUALITY_SCHEMA:
        found.qualities.append((path, content))
        return
    if schema == CARD_SCHEMA:
        found.cards.append((path, card_from(content)))
        return
    if isinstance(content, dict) and schema.partition("/")[0] != SCHEMA_NAME:
        found.others.append(Damaged(path, _other(content.get("schema"))))
        return
    found.runs.append((path, run_from(content)))


def read_runs(folder: Path) -> tuple[list[Run], list[Damaged]]:
    """Every run of one folder, oldest first, and the files that are none.

    Raises:
        OSError: no such folder.
    """
    found = read_folder(folder, below=False)
    qualities = [Damaged(path, _other(QUALITY_SCHEMA)) for path, _ in found.qualities]
    cards = [Damaged(path, _other(CARD_SCHEMA)) for path, _ in found.cards]
    damaged = sorted([*found.damaged, *found.others, *qualities, *cards], key=lambda file: file.path)
    return [run for _, run in found.runs], damaged


def collect(folder: Path) -> tuple[list[Run], list[Damaged]]:
    """Every run of a folder and the folders below it, oldest first and each once, and the damaged files.

    JSON files of another kind are passed over.

    Raises:
        OSError: no such folder.
    """
    found = read_folder(folder)
    once: dict[str, Run] = {}
    for _, run in found.runs:
        # The same record may lie in two folders, gathered from elsewhere.
        once.setdefault(run.id, run)
    return list(once.values()), found.damaged


def _other(schema: object) -> str:
    return f"schema is {shown(schema)}, expected {SCHEMA_NAME}/{SCHEMA_VERSION}"

"""Measurements on disk: one typed, versioned JSON file a record, written whole or not at all.

The schema is ``results/run.schema.json``. Readers skip a damaged file and name it. Records of older schema
versions are read and brought to the present one (:data:`UPGRADES`). Fields that a reader does not know are
kept; fields that a file lacks take their defaults.
"""

import datetime
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from segmeter.files import MAX_SHOWN, plain_id, read_bytes
from segmeter.harness.records.files import write_text
from segmeter.harness.records.shape import check_inside
from segmeter.plain import csv_cell, shown
from segmeter.words import nearest

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_NAME = "segmeter.run"
SCHEMA_VERSION = 2
# A record with every sample of an hour has a thousandth.
MAX_BYTES = 1 << 28
SCHEMA_PATH = Path(__file__).parents[2] / "results" / "run.schema.json"
DEFAULT_FOLDER = Path("results") / "runs"
STATUSES = ("ok", "out of memory", "crashed", "timed out")
FORMATS = ("csv", "parquet", "json")
# Settings that change what is timed, as they are said.
WAYS = {"compile": "compiled", "cuda_graph": "CUDA graph", "keep_memory": "freed memory kept"}


@dataclass
class Run:
    """One measurement of one model.

    Attributes:
        id: file name without ``.json``.
        time: when it was written, UTC, ISO 8601.
        kind: what was measured: ``profile``, or ``sweep`` for a cell of a sweep.
        status: one of :data:`STATUSES`; all but ``ok`` carry ``error`` and no figures.
        model: how the model is written.
        settings: device, dtype, batch, padded size, classes, queries, threads and the like.
        figures: flat name -> number, with the unit at the end of the name (``latency_ms``).
        statistics: name -> median, interval, quartiles, quantiles.
        components: dotted component -> figures.
        ratios: one for each model measured in the same rounds: how many times faster that one was.
        samples: name -> raw samples in the order taken.
        environment: see :mod:`harness.machine.environment`.
        notes: name -> what a reader must know, such as why energy is missing.
    """

    id: str
    time: str
    kind: str
    status: str
    model: str
    title: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    components: dict[str, dict[str, float | None]] = field(default_factory=dict)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    error: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """As it stands in the file."""
        plain = asdict(self)
        more = plain.pop("more")
        return {"schema": f"{SCHEMA_NAME}/{SCHEMA_VERSION}", **plain, **more}


@dataclass(frozen=True)
class Damaged:
    """A file that is not a record, and why."""

    path: Path
    reason: str


_KNOWN = {f.name for f in fields(Run)} - {"more"}
_TYPES: dict[str, type] = {
    **{name: str for name in ("id", "time", "kind", "status", "model", "title", "error")},
    **{name: dict for name in ("settings", "figures", "statistics", "components", "samples")},
    **{"environment": dict, "notes": dict, "ratios": list},
}
_NEEDED = ("id", "time", "kind", "status", "model")


def new_id(moment: datetime.datetime | None = None) -> str:
    """A name that sorts by time and that no other process picks."""
    moment = moment or datetime.datetime.now(datetime.UTC)
    return f"{moment:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def now() -> str:
    """This moment, UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def save(run: Run, folder: Path) -> Path:
    """Write a record atomically into ``folder``, which is made if need be.

    Raises:
        OSError: the folder cannot be written, or the disk is full; nothing is left behind.
        ValueError: a figure is infinite or not a number.
    """
    check_folder(folder)
    path = folder / f"{run.id}.json"
    write_text(path, json.dumps(run.content(), ensure_ascii=False, allow_nan=False) + "\n")
    return path


def check_folder(folder: Path) -> None:
    """Make the folder and see that it can be written: asked before a long measurement, not after.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write into {folder}: it is read-only; choose another with --out")


def read_run(path: Path) -> Run:
    """Read one record.

    Raises:
        ValueError: not a record of a version that this segmeter reads; the reason on one line.
        OSError: the file cannot be read.
    """
    try:
        content = orjson.loads(read_bytes(path, MAX_BYTES))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    return run_from(content)


def run_from(content: Any) -> Run:
    """A record from a file's content.

    Raises:
        ValueError: as :func:`read_run`.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a record is a JSON object, this is a {type(content).__name__}")
    name, _, version = str(content.get("schema", "")).partition("/")
    if name != SCHEMA_NAME or not version.isdecimal():
        raise ValueError(f"schema is {shown(content.get('schema'))}, expected {SCHEMA_NAME}/{SCHEMA_VERSION}")
    if not 1 <= int(version) <= SCHEMA_VERSION:
        raise ValueError(
            f"schema version {version} is newer than this segmeter, which reads {SCHEMA_VERSION}"
        )
    for old in range(int(version), SCHEMA_VERSION):
        content = UPGRADES[old](content)
    for key, kind in _TYPES.items():
        if key not in content:
            if key in _NEEDED:
                raise ValueError(f"{key} is missing")
        elif not isinstance(content[key], kind):
            raise ValueError(f"{key} must be a {kind.__name__}, got {type(content[key]).__name__}")
    if content["status"] not in STATUSES:
        raise ValueError(
            f"status {shown(content['status'])} is unknown{nearest(content['status'], STATUSES)}"
        )
    try:
        plain_id(content["id"])
    except ValueError:
        raise ValueError(f"id {content['id'][:MAX_SHOWN]!r} is no plain name") from None
    check_inside(content)
    known = {key: value for key, value in content.items() if key in _KNOWN}
    more = {key: value for key, value in content.items() if key not in _KNOWN and key != "schema"}
    return Run(**known, more=more)


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 to 2: one name for the components' sum; readings of the machine stand in ``during``."""
    figures, environment = content.get("figures"), content.get("environment")
    if isinstance(figures, dict):
        # The same ratio stood under two names.
        figures = {name: value for name, value in figures.items() if name != "hook_overhead"}
    if isinstance(environment, dict):
        clocks = environment.get("clocks")
        clocks = dict(clocks) if isinstance(clocks, dict) else {}
        during = {name: clocks.pop(name) for name in ("before", "after") if name in clocks}
        others = environment.get("other_processes")
        if others is not None:
            during["other_gpu_processes"] = others
        kept = {name: value for name, value in environment.items() if name != "other_processes"}
        environment = {**kept, "clocks": clocks, "during": during}
    changed = {"figures": figures, "environment": environment}
    return {**content, **{name: value for name, value in changed.items() if value is not None}}


# Version -> what brings a record's content to the next version.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1}


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(".json") and not e.name.startswith("."))
    return (folder / name for name in names)


def find_run(folder: Path, name: str) -> Run:
    """The record with this id, the only one whose id starts so, or a path.

    Raises:
        ValueError: none or several.
        OSError: no such folder.
    """
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return read_run(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no records: {folder} is not a folder")
    ids = [path.stem for path in _files(folder)]
    found = [i for i in ids if i == name] or [i for i in ids if i.startswith(name)]
    if not found:
        raise ValueError(f"no record {name!r} in {folder}{nearest(name, ids)}")
    if len(found) > 1:
        raise ValueError(f"{name!r} fits {len(found)} records, e.g. {found[0]} and {found[1]}")
    return read_run(folder / f"{found[0]}.json")


def differences(first: Mapping[str, Any], second: Mapping[str, Any], above: str = "") -> dict[str, list[Any]]:
    """Dotted key -> the two values, wherever two nested mappings differ."""
    found: dict[str, list[Any]] = {}
    for key in sorted({*first, *second}):
        path = f"{above}.{key}" if above else key
        a, b = first.get(key), second.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, path)
        elif a != b:
            found[path] = [a, b]
    return found


# What changes from one run to the next on one and the same machine.
PASSING = ("clocks", "during", "load", "memory_free_bytes")


def runtime_of(run: Run) -> str:
    """What the model ran in; records from before it was kept were eager or compiled."""
    return str(run.settings.get("runtime") or ("compile" if run.settings.get("compile") else "eager"))


def in_one_runtime(run: Run, ratio: Mapping[str, Any]) -> bool:
    """Whether a ratio of a record is between two models in one runtime, and not between runtimes."""
    return ratio.get("baseline_runtime") in (None, runtime_of(run))


def how_measured(run: Run) -> str:
    """Machine, dtype, batch and whatever was asked for beyond a plain call, in one line."""
    settings = run.settings
    machine = run.environment.get("device_name") or settings.get("device", "unknown machine")
    tf32 = f" with {settings['tf32']} in TF32" if settings.get("tf32") else ""
    words = [str(machine), f"{settings.get('dtype')}{tf32}", f"batch {settings.get('batch') or 1}"]
    if settings.get("runtime") not in (None, "eager", "compile"):
        words.append(str(settings["runtime"]))
    return ", ".join(words + [name for key, name in WAYS.items() if settings.get(key)])


def environment_differences(first: Run, second: Run) -> dict[str, list[Any]]:
    """Where two runs' machines and software differ, without what changes from minute to minute.

    A part without content is none: older records lack parts that newer ones have empty.
    """
    a, b = (
        {key: part for key, part in run.environment.items() if key not in PASSING and part != {}}
        for run in (first, second)
    )
    return differences(a, b)


def table(runs: Sequence[Run]) -> "pd.DataFrame":
    """One row a record: model, settings, figures, and the machine in short."""
    import pandas as pd

    rows = []
    for run in runs:
        latency = run.statistics.get("latency_ms", {})
        rows.append(
            {
                **{key: getattr(run, key) for key in ("id", "time", "kind", "status", "model", "title")},
                **run.settings,
                **run.figures,
                **{f"latency_ms_{key}": latency.get(key) for key in ("median", "low", "high", "p90", "p99")},
                "machine": run.environment.get("device_name", ""),
                "torch": run.environment.get("versions", {}).get("torch", ""),
                "git": run.environment.get("git", {}).get("revision", ""),
                "error": run.error,
            }
        )
    return pd.DataFrame(rows)


def export(runs: Sequence[Run], kind: str, path: Path) -> None:
    """Write the table of records as csv, parquet or json, atomically.

    Raises:
        ValueError: another format, or parquet without pyarrow.
        OSError: the file cannot be written.
    """
    from io import BytesIO

    import pandas as pd

    from segmeter.harness.records.files import write_bytes

    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}{nearest(kind, FORMATS)}")
    frame = table(runs)
    if kind == "csv":
        content = frame.map(csv_cell).rename(columns=csv_cell).to_csv(index=False).encode()
    elif kind == "json":
        content = (frame.to_json(orient="records", indent=2) + "\n").encode()
    else:
        buffer = BytesIO()
        try:
            # Settings may mix types from record to record, which a parquet column cannot.
            mixed = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
            frame[mixed] = frame[mixed].astype(str)
            frame.to_parquet(buffer, index=False)
        except ImportError:
            raise ValueError("parquet needs pyarrow: pip install pyarrow, or choose csv or json") from None
        content = buffer.getvalue()
    write_bytes(path, content)

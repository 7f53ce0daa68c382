"""A folder of predictions: which run's it is, which of its images are finished, what they came to.

Each process appends a line of JSON for each image that is done, after the image's pictures are on disk; a
line that was cut off does not count. So a run that was killed goes on where it stopped.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segmeter.files import plain_id, read_json
from segmeter.harness.quality.datasets import Entry
from segmeter.harness.records import write_json, write_parts
from segmeter.plain import shown

RUN_FILE = "run.json"
LINE_KEYS = {"image_id", "file_name", "segments_info", "instances", "seconds"}


def open_folder(folder: Path, identity: dict[str, Any], whole: bool = True) -> None:
    """Make a folder for predictions, or find in it those of the same run.

    Args:
        folder: where.
        identity: what the run is.
        whole: whether there will be panoptic and semantic pictures.

    Raises:
        ValueError: it holds another run's.
    """
    for part in ("panoptic", "semantic", "state") if whole else ("state",):
        (folder / part).mkdir(parents=True, exist_ok=True)
    path = folder / RUN_FILE
    if not path.exists():
        write_json(path, identity)
        return
    found = read_json(path)
    for key, value in identity.items():
        if not isinstance(found, dict) or found.get(key) != value:
            other = found.get(key) if isinstance(found, dict) else None
            raise ValueError(
                f"{folder} holds another run's predictions: {key} {shown(other)}, not {shown(value)}; "
                "choose another folder with --out"
            )


def find_states(folder: Path) -> dict[int | str, tuple[Path, int]]:
    """Finished images: id -> the file that has its line, and where. A line that was cut off is not done."""
    done: dict[int | str, tuple[Path, int]] = {}
    for path in sorted((folder / "state").glob("*.jsonl")):
        position = 0
        with path.open("rb") as lines:
            for line in lines:
                image_id = _finished(line)
                if image_id is not None:
                    done[image_id] = path, position
                position += len(line)
    return done


def _finished(line: bytes) -> int | str | None:
    """The image of a line that is whole and has all that a result needs; None for any other."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
        if not isinstance(content, dict) or not content.keys() >= LINE_KEYS:
            return None
        return plain_id(content["image_id"])
    except (ValueError, RecursionError):
        return None


def read_states(folder: Path, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """The lines of those images that are finished, one after the other; they are large."""
    done = find_states(folder)
    for entry in entries:
        if entry.image_id in done:
            path, position = done[entry.image_id]
            with path.open("rb") as lines:
                lines.seek(position)
                yield json.loads(lines.readline())


def gather(folder: Path, entries: Sequence[Entry]) -> dict[int | str, float]:
    """Join what the processes did into ``panoptic.json`` and ``instances.json``, without holding it all.

    Returns:
        Image id -> seconds, of the images that are finished.

    Raises:
        OSError: the folder cannot be written.
    """
    keys = ("image_id", "file_name", "segments_info")
    whole = ({key: line[key] for key in keys} for line in read_states(folder, entries))
    things = (found for line in read_states(folder, entries) for found in line["instances"])
    with named_folder(folder):
        if (folder / "panoptic").is_dir():
            write_parts(folder / "panoptic.json", _json_list(b'{"annotations": [', whole, b"]}\n"))
        write_parts(folder / "instances.json", _json_list(b"[", things, b"]\n"))
    return {line["image_id"]: line["seconds"] for line in read_states(folder, entries)}


def _json_list(head: bytes, items: Iterator[dict[str, Any]], tail: bytes) -> Iterator[bytes]:
    yield head
    for index, item in enumerate(items):
        yield (b",\n" if index else b"\n") + json.dumps(item).encode()
    yield tail


@contextmanager
def named_folder(folder: Path) -> Iterator[None]:
    """Say of a folder that cannot be written that the run can go on in it.

    Raises:
        OSError: as inside, told in one line.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write into {folder}: {error.strerror or error}; "
            "give the same command again to go on where it stopped"
        ) from None


def cut_to_whole_lines(path: Path) -> None:
    """Drop a last line that a killed process left unfinished."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)

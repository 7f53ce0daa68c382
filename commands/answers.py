"""Counts that were made before, so that the same question need not load torch again.

A count of a built-in model at given sizes is decided by segmeter's sources and data, the libraries that build
and run the model, and the words of the command. The name of a kept answer is the digest of all of these: one
edited line, or another torch, and it is counted anew. Nothing is kept of a model that a file or a library's
configuration describes, nor of one whose work depends on pictures.

A file that was cut short, changed, or written by another user is not believed: the digest of the answer
stands beside it. They lie in ``$SEGMETER_CACHE/counts``, else ``~/.cache/segmeter/counts``; an empty
``SEGMETER_CACHE`` keeps none.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segmeter import words
from segmeter.commands.known import known
from segmeter.compiler import cache_folder, digest, foreign_hand
from segmeter.files import read_json
from segmeter.model_text import ModelText, is_library_name, is_source

# What builds and runs a model.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "segmeter")
ROOMS = ("commands", "cuda_ops", "encoders", "harness", "results/sizes")
# A count's JSON has some 20 kB.
MOST_KEPT = 500
MOST_BYTES = 4 << 20


def answer_file(command: str, models: Sequence[str | None], *words_given: object) -> Path | None:
    """Where the answer to a command lies, or would lie; None if it is not one to keep.

    Args:
        command: its name.
        models: the models that it names, None for the one that it takes by default.
        words_given: everything else that decides the answer.
    """
    if os.environ.get("SEGMETER_CACHE") == "" or not all(map(_is_built_in, models)):
        return None
    if any(is_source(str(word)) or is_library_name(str(word)) for word in words_given):
        return None
    key = digest(command, repr(models), repr(words_given), *_sources(), *_versions())
    return cache_folder() / "counts" / f"{key}.json"


def kept_answer(place: Path | None) -> Any | None:
    """What was kept there; None if nothing was, or not by this user and as it stands now."""
    if place is None:
        return None
    with suppress(ValueError, OSError, LookupError, TypeError, RecursionError):
        if place.stat().st_size <= MOST_BYTES and not any(map(foreign_hand, (place.parent, place))):
            kept = read_json(place)
            text = kept["answer"]
            return json.loads(text) if digest(text) == kept["digest"] else None
    return None


def keep_answer(place: Path | None, answer: Any) -> None:
    """Keep an answer, unless pictures decided it; a disk that is full or read-only is no fault."""
    if place is None or "input_dependent" in (text := json.dumps(answer)):
        return
    from segmeter.harness.records import write_text

    with suppress(OSError):
        # Each of them as a folder that only this user can write to, whatever the shell's mask.
        place.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        write_text(place, json.dumps({"digest": digest(text), "answer": text}))
        kept = sorted(place.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST_KEPT]:
            path.unlink(missing_ok=True)


def _is_built_in(text: str | None) -> bool:
    if text is None or text.strip() in known()["presets"]:
        return True
    with suppress(ValueError):
        written = ModelText.parse(text, known()["systems"])
        parts = (written.backbone or "", *(value for _, value in written.options))
        return written.name in known()["systems"] and not any(
            is_source(part) or is_library_name(part) or "/" in part for part in parts
        )
    return False


def _sources() -> Iterator[str]:
    """Every file that a count could depend on, name and content."""
    # The folder that the rooms lie in: a checkout, or the installed package.
    root = Path(__file__).resolve().parents[1]
    files = [path for room in ROOMS for path in (root / room).rglob("*") if path.is_file()]
    files += Path(words.__file__).parent.glob("*.py")
    for path in sorted(files):
        if path.suffix in {".py", ".json", ".csv", ".txt", ".cu", ".cpp"}:
            yield path.name
            yield path.read_text(encoding="utf-8", errors="replace")


def _versions() -> Iterator[str]:
    yield sys.version
    for name in LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} -"

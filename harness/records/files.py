"""Records as files: written whole or not at all."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segmeter.plain import json_text


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
    """As :func:`write_bytes`, part after part, so that the whole need not fit into memory.

    A device or a pipe, such as /dev/stdout, is written to; a file in its place would be the end of it.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                stream.writelines(parts)
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        # A full disk does not say which file, and a temporary name says nothing.
        raise type(error)(error.errno, error.strerror, str(path)) from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_text(path, to_json(content))


def to_json(content: Any) -> str:
    """Indented JSON text with a final newline; NaN is refused rather than written."""
    return json_text(content) + "\n"

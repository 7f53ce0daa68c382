"""Files: read within bounds, found inside their folder, written whole or not at all.

A name in a JSON file is data: it may say ``/etc/passwd``, ``../../x`` or ``/dev/zero``. What is made of such
a name goes through :func:`inside` or :func:`plain_id`, and what it leads to through :func:`check_regular`.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# The folder that segmeter is imported from: a checkout, or site-packages.
SITE = Path(__file__).resolve().parents[1]
# COCO's largest annotation file has 0.5 GB; predictions of 5,000 images with 100 masks each, less.
MAX_TEXT_BYTES = 1 << 31
# Letters of a name out of a file that a message repeats.
MAX_SHOWN = 80
# A file of settings or of numbers for a paper has a few kilobytes.
MAX_TOML_BYTES = 1 << 24
# Dotted names of more parts than these: tomllib keeps each of their beginnings, which takes the square of it.
_DEEP_NAME = re.compile(
    r"""(?:^|[\[{,])(?:[ \t]*+(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.){100}""", re.MULTILINE
)
_PLAIN = re.compile(r"[\w-][\w .+,@=()-]{0,199}")


def prepare_folder(path: Path) -> None:
    """Make the folder if need be, and see that one can write there, before any work is done.

    Raises:
        ValueError: it is a file, or cannot be made or written to.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"cannot write to {path}: it is a file, expected a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".segmeter-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to folder {path}: {error.strerror or error}") from None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Have a folder or file for this process alone, as far as others ask in the same way; they wait.

    The system lets go of it when the process ends, however it ends, and nothing is left on the disk.

    Args:
        path: an existing one.
        wait: else say at once whether it was free.

    Yields:
        Whether this process has it; always so after waiting, and where the system has no such locks.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        except OSError:
            # A file system without locks.
            held = True
        yield held
    finally:
        os.close(handle)


def check_regular(path: Path, most: int | None = None) -> int:
    """See that a path is a regular file before it is opened: a device or a pipe may have no end.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: missing, no regular file, or larger than ``most`` bytes.
        OSError: its folder cannot be read.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ValueError(f"{path} is {kind}")
    if most is not None and found.st_size > most:
        raise ValueError(f"{path} has {found.st_size:,} bytes; at most {most:,} are read")
    return found.st_size


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """A regular file's content.

    Raises:
        ValueError: missing, no regular file, larger than ``most`` bytes, or not readable.
    """
    try:
        size = check_regular(path, most)
        with path.open("rb") as file:
            # A file that grows meanwhile is cut here; the reader's parser then says so.
            return file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json(path: Path, what: str = "") -> Any:
    """A JSON file's content.

    Args:
        path: the file.
        what: what it is to be, for the message; its path alone if empty.

    Raises:
        ValueError: missing, no regular file, beyond reason in size, no JSON, or nested beyond reason.
    """
    name = f"{what} {path}".strip()
    try:
        return json.loads(read_bytes(path), parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"{name} is not JSON that can be read: it is nested beyond reason") from None
    except (UnicodeDecodeError, ValueError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{name} is not valid JSON: {_reason(error)}") from None


def read_toml(path: Path, what: str = "") -> dict[str, Any]:
    """As :func:`read_json`, for TOML."""
    name = f"{what} {path}".strip()
    content = read_bytes(path, MAX_TOML_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not TOML: {_reason(error)}") from None
    return parse_toml(text, name)


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """TOML out of a file.

    Args:
        text: the TOML.
        name: what it is, for the message.

    Raises:
        ValueError: no TOML, or nested beyond reason.
    """
    try:
        if _DEEP_NAME.search(text):
            raise RecursionError
        read = tomllib.loads(text)
        # Dotted keys make tables in tables without end, which nothing else here could walk through.
        json.dumps(read, default=str)
        return read
    except RecursionError:
        raise ValueError(f"{name} is not TOML that can be read: it is nested beyond reason") from None
    except ValueError as error:
        raise ValueError(f"{name} is not TOML: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What a parser says, without its advice on Python's settings."""
    return str(error).partition("; use sys.")[0]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def inside(folder: Path, name: object, *, strict: bool = False) -> Path:
    """The path of a file that data names, inside a folder.

    Args:
        folder: where it must lie.
        name: as the data has it; with ``/`` between folders.
        strict: follow symbolic links too, for folders that somebody else made.

    Raises:
        ValueError: no text, an absolute path, one that leaves the folder, or one that no system can have.
    """
    shown = repr(name)[:MAX_SHOWN]
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"the file name {shown} is none")
    windows = PureWindowsPath(name)
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if windows.drive or windows.root or ".." in parts or len(name) > 1000:
        raise ValueError(f"the file name {shown} leads out of its folder")
    path = folder / name
    if strict and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the file name {shown} leads out of its folder by a link")
    return path


def plain_id(value: object) -> int | str:
    """An image id out of data, fit to be part of a file's name.

    >>> plain_id(139), plain_id("frankfurt_000000_000294")
    (139, 'frankfurt_000000_000294')

    Raises:
        ValueError: neither a whole number nor a plain name.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not value.endswith((".", " ")):
        return value
    raise ValueError(f"the image id {repr(value)[:MAX_SHOWN]} is neither a whole number nor a plain name")

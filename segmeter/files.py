"""Files: read within bounds, found inside their folder, written whole or not at all.

A name in a JSON file is data: it may say ``/etc/passwd``, ``../../x`` or ``/dev/zero``. What is made of such
a name goes through :func:`inside` or :func:`plain_id`, and what it leads to through :func:`check_regular`.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

# The folder that segmeter is imported from: a checkout, or site-packages.
SITE = Path(__file__).resolve().parents[1]
# COCO's largest annotation file has 0.5 GB; predictions of 5,000 images with 100 masks each, less.
MAX_TEXT_BYTES = 1 << 31
# Letters of a name out of a file that a message repeats.
MAX_SHOWN = 80
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

"""The folder a report goes to."""

import os
from pathlib import Path


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

"""Where compiled kernels are kept: one file per key, whole or not there at all.

``$SEGMETER_CACHE``, else ``~/.cache/segmeter``. A file is written beside its place and renamed into it, so
that two processes which build at once both end with a whole file, and an interrupted build leaves none.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"


class KernelUnavailableError(RuntimeError):
    """A compiled kernel cannot be had; the message says why and what to do, in one line.

    Attributes:
        passing: it may be had later as things stand, e.g. once other work has freed the GPU's memory.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class Reasons:
    """Why something is missing, asked once for each key: what may pass is asked again."""

    def __init__(self) -> None:
        self._known: dict[Hashable, str] = {}

    def of(self, key: Hashable, load: Callable[[], object]) -> str:
        """The message of the KernelUnavailableError that ``load`` raises, or an empty string."""
        if key not in self._known:
            try:
                load()
            except KernelUnavailableError as error:
                if error.passing:
                    return str(error)
                self._known[key] = str(error)
            else:
                self._known[key] = ""
        return self._known[key]


def cache_folder() -> Path:
    """The folder of compiled kernels; not created here."""
    given = os.environ.get("SEGMETER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "segmeter"


def digest(*parts: str) -> str:
    """A short key of everything that a build depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def cached_file(name: str, build: Callable[[Path], None]) -> Path:
    """The file ``name`` in the cache; if it is missing, ``build(path)`` writes it first.

    Raises:
        KernelUnavailableError: the cache folder cannot be written, or the build says so.
    """
    place = cache_folder() / name
    return place if place.is_file() else replaced_file(name, build)


def replaced_file(name: str, build: Callable[[Path], None]) -> Path:
    """As :func:`cached_file`, but written anew; the old file stays until the new one is whole."""
    folder = cache_folder()
    place = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as own:
            built = Path(own) / name
            build(built)
            os.replace(built, place)
    except OSError as error:
        raise KernelUnavailableError(
            f"the kernel cache {folder} cannot be written ({error.strerror or error}); "
            "set SEGMETER_CACHE to a folder that can"
        ) from None
    return place

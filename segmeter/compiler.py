"""The system's C++ compiler, and the folder that keeps what it builds: one file per key, whole or not there.

The op's CPU kernel and the reader of panoptic pictures are compiled at first use; without a compiler both
have a slower stand-in. The folder is ``$SEGMETER_CACHE``, else ``~/.cache/segmeter``. A file is written
beside its place and renamed into it, so that two processes which build at once both end with a whole file,
and an interrupted build leaves none. What is loaded runs as this user: a folder or a file that somebody else
could have written is refused, and a library that is not as it was written is built anew. Needs nothing of the
rooms, and no torch.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SEAL_BYTES = hashlib.sha256().digest_size


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


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler and its version line."""

    path: str
    version: str


def find_compiler() -> Compiler:
    """``$CXX``, else c++, g++ or clang++.

    Raises:
        KernelUnavailableError: there is none, or it does not run.
    """
    asked = os.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [asked] if asked else ["c++", "g++", "clang++"])), None)
    if path is None:
        wanted = f"CXX={asked} is not a program" if asked else "no C++ compiler found"
        raise KernelUnavailableError(f"{wanted}; install one, e.g. `apt install g++`, or set CXX")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise KernelUnavailableError(f"{path} does not run ({error}); set CXX to a C++ compiler") from None
    return Compiler(path, done.stdout.partition("\n")[0])


def cache_folder() -> Path:
    """The folder of compiled kernels; not created here."""
    given = os.environ.get("SEGMETER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "segmeter"


def digest(*parts: str) -> str:
    """A short key of everything that a build depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def foreign_hand(path: Path) -> str:
    """Who else could have written a file or a folder, in words; empty if nobody but this user and root."""
    if not hasattr(os, "geteuid"):  # Windows: folders of a user are the user's.
        return ""
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    # In a sticky folder, such as /tmp, others cannot replace a file: it then says itself whose it is.
    if found.st_mode & stat.S_IWOTH and not (path.is_dir() and found.st_mode & stat.S_ISVTX):
        return "any user can write to it"
    return ""


def cached_file(name: str, build: Callable[[Path], None]) -> Path:
    """The file ``name`` in the cache; if it is missing, ``build(path)`` writes it first.

    Raises:
        KernelUnavailableError: the cache folder cannot be written, others can write to it, or the build says
            so.
    """
    folder = cache_folder()
    place = folder / name
    with _usable(folder):
        if not place.is_file():
            return replaced_file(name, build)
        _check_own(folder)
        _check_own(place)
    return place


def cached_library(name: str, build: Callable[[Path], None]) -> Path:
    """As :func:`cached_file`, for a shared library, which is built anew if it is not as it was written.

    A system that loads one cut short (by a full disk, say) ends the process. Behind the library's last byte,
    where no loader looks, stands the digest of all before it.
    """

    def sealed(target: Path) -> None:
        build(target)
        with target.open("r+b") as file:
            content = file.read()
            file.write(hashlib.sha256(content).digest())

    place = cached_file(name, sealed)
    with _usable(cache_folder()):
        content = place.read_bytes()
    whole, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    return place if hashlib.sha256(whole).digest() == seal else replaced_file(name, sealed)


def replaced_file(name: str, build: Callable[[Path], None]) -> Path:
    """As :func:`cached_file`, but written anew; the old file stays until the new one is whole."""
    folder = cache_folder()
    place = folder / name
    with _usable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as own:
            built = Path(own) / name
            build(built)
            os.replace(built, place)
    return place


def _check_own(path: Path) -> None:
    if reason := foreign_hand(path):
        raise KernelUnavailableError(
            f"the kernel cache {path} is not used: {reason}; set SEGMETER_CACHE to a folder of your own"
        )


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelUnavailableError(
            f"the kernel cache {folder} cannot be used ({error.strerror or error}); "
            "set SEGMETER_CACHE to a folder that can"
        ) from None

"""The two small files that describe a model: from a folder, or from the Hub."""

import socket
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
MAX_BYTES = 4 * 2**20
SECONDS = 10


def config_files(name: str) -> dict[str, str]:
    """File name -> text of ``ORG/NAME[@REVISION]`` or of a folder's; the second file need not be there.

    Raises:
        ValueError: no such folder or repository, no ``config.json`` in it, or no network.
    """
    if is_folder(name):
        return _from_folder(Path(name).expanduser())
    repository, _, revision = name.partition("@")
    return dict(_from_hub(repository, revision or None))


def is_folder(name: str) -> bool:
    """Whether a name means a folder here rather than a repository of the Hub."""
    path = Path(name).expanduser()
    return path.is_dir() or name.startswith((".", "/", "~")) or name.count("/") != 1


def _from_folder(folder: Path) -> dict[str, str]:
    if folder.name == CONFIG:
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; a model of the Hub is written hf:ORG/NAME")
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}")
    return {name: _text(folder / name) for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file()}


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a model's has a few thousand")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; expected JSON") from None


@lru_cache(maxsize=64)
def _from_hub(repository: str, revision: str | None) -> tuple[tuple[str, str], ...]:
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    shown = repository + (f"@{revision}" if revision else "")
    cached_only = not _is_reachable(constants.ENDPOINT)
    found: list[tuple[str, str]] = []
    for name in (CONFIG, PREPROCESSOR):
        try:
            path = huggingface_hub.hf_hub_download(
                *(repository, name),
                revision=revision,
                etag_timeout=SECONDS,
                local_files_only=cached_only,
            )
        except errors.LocalEntryNotFoundError:
            if found:
                break  # cached without its preprocessing
            raise ValueError(
                f"cannot reach the Hub for hf:{shown}; put its {CONFIG} (and {PREPROCESSOR}) into a "
                f"folder and name that: hf:./{repository.rpartition('/')[2]}"
            ) from None
        except errors.EntryNotFoundError:
            if name == CONFIG:
                raise ValueError(f"hf:{shown} has no {CONFIG}: not a model of transformers") from None
            continue
        except errors.RevisionNotFoundError:
            raise ValueError(f"hf:{repository} has no revision {revision!r}") from None
        except errors.GatedRepoError:
            raise ValueError(
                f"hf:{shown} is gated: log in with `hf auth login`, or put its {CONFIG} into a folder and "
                "name that"
            ) from None
        except errors.RepositoryNotFoundError:
            raise ValueError(f"the Hub has no model {shown}") from None
        except errors.HFValidationError as error:
            raise ValueError(f"hf:{shown} is no name of the Hub's: {' '.join(str(error).split())}") from None
        except (OSError, errors.HfHubHTTPError) as error:
            said = " ".join(str(error).split())[:120]
            raise ValueError(
                f"cannot reach the Hub for hf:{shown} ({said}); put its {CONFIG} (and {PREPROCESSOR}) into a "
                f"folder and name that: hf:./{repository.rpartition('/')[2]}"
            ) from None
        found.append((name, _text(Path(path))))
    return tuple(found)


def _is_reachable(endpoint: str) -> bool:
    """Whether anything answers there: the library itself would try again for half a minute."""
    if getproxies():
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True

"""Whose fault a failure is: an error out of the user's own code is told as one line that names the line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OwnModelError(ValueError):
    """The user's own code failed; the cause is kept for ``--verbose``."""


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn any error of the user's code into one line that says so; our own lines pass as they are."""
    try:
        yield
    except ValueError as error:
        if error.__class__ is not ValueError or _from_here(error):
            raise
        raise OwnModelError(f"{what}: ValueError: {error_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise OwnModelError(f"{what}: {type(error).__name__}: {error_line(error)}") from error


def _from_here(error: BaseException) -> bool:
    """Whether segmeter itself raised it, rather than the user's code or a library that it calls."""
    files = list(_files(error))
    root = Path(__file__).resolve().parents[2]
    rooms = ("harness", "encoders", "cuda_ops")
    return bool(files) and any(files[-1].is_relative_to(root / room) for room in rooms)


def _files(error: BaseException) -> Iterator[Path]:
    """Source files of an error's frames, the innermost last."""
    step = error.__traceback__
    while step is not None:
        yield Path(step.tb_frame.f_code.co_filename).resolve()
        step = step.tb_next


def error_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or "no message"

"""What the commands share: exit codes, errors in one line, printing, progress."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segmeter.plain import one_line, plain

EXIT_FAILED = 1  # a check did not hold
EXIT_MISUSE = 2

_verbose = False


def set_verbose(verbose: bool) -> bool:
    """Whether the traceback of the user's own code is shown."""
    global _verbose
    _verbose = verbose
    return verbose


class InputError(Exception):
    """Bad input, told in one line."""


def is_output_fault(error: OSError) -> bool:
    """Whether a disk is full of what was printed: an error of a file that was written has the file's name."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def user_input() -> Iterator[None]:
    """Turn what the library says of bad input into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        if _verbose and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        if isinstance(error, OSError) and is_output_fault(error):
            raise
        raise InputError(one_line(error)) from None


@contextmanager
def whole_record(what: str) -> Iterator[None]:
    """A record from elsewhere may lack what a table shows: told by name, as bad input is."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} is not whole ({reason}); --json prints it as it is") from error


@contextmanager
def progress_bar(what: str, steps: int) -> Iterator[Any]:
    """A progress bar on stderr, gone when done; yields a function that advances it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(plain(what), total=steps)

        def advance(description: str | None = None) -> None:
            if description:
                bar.update(task, description=plain(description))
            bar.advance(task)

        yield advance


def show(*things: Any) -> None:
    """Print tables and lines; plain text is never read as markup."""
    from rich.table import Table

    from segmeter.reports.text.fit import fitted, hanging, natural_width
    from segmeter.reports.text.screen import Screen

    console = Screen(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A pipe or a file has no width: tables keep their own.
        tables = [natural_width(thing) for thing in things if isinstance(thing, Table)]
        console = Screen(width=max(200, *tables, 0), highlight=False)
    for thing in things:
        if isinstance(thing, str):
            for line in hanging(thing, console.width):
                console.print(line)
        else:
            console.print(fitted(thing, console.width) if isinstance(thing, Table) else thing)


def show_json(content: Any) -> None:
    """Print one JSON document."""
    from segmeter.harness.records import to_json

    sys.stdout.write(to_json(content))


def warn(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"segmeter: {plain(line)}\n")

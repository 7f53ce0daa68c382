"""Run a reader of hostile files in a process that has little memory and little time left."""

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 1 << 20


def bounded(function: Callable[..., Any], *arguments: Any, mebibytes: int = 768, seconds: int = 20) -> str:
    """What a call raises, as "Type: message"; "" if it returns.

    The call runs in a copy of this process that may take ``mebibytes`` of address space more than it has and
    ``seconds`` of processor time. A call that runs out of either fails the test: an out-of-memory error is
    told as such, and a killed process too.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def call() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * MIB,) * 2)
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + seconds,) * 2)
        try:
            function(*arguments)
            sender.send("")
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=call)
    process.start()
    sender.close()
    try:
        said = receiver.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the reader was killed (exit code {process.exitcode})") from None
    process.join()
    assert "MemoryError" not in said and "out of memory" not in said, said
    return said

"""Count what a model runs in threads of its own: torch keeps its modes per thread."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, thread
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from segmeter.harness.counting.ledger import Ledger


@contextmanager
def threads_watched(ledger: Ledger, watching: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Watch the threads that a watched one starts, and what it hands to a pool, wherever that pool is from.

    Their work is booked under the module that started them. Threads of others are left alone.

    Args:
        ledger: what to write into.
        watching: gives a context in which operators are counted.
    """
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def seen(function: Callable[..., Any]) -> Callable[..., Any]:
        there = ledger.taken_over()

        def inside(*args: Any, **kwargs: Any) -> Any:
            with there(), watching():
                return function(*args, **kwargs)

        return inside

    def watched_start(new: threading.Thread) -> None:
        # A pool's worker lives on: only what it is handed now is of this count.
        is_worker = getattr(new, "_target", None) is thread._worker
        if ledger.here.watched and not is_worker:
            new.run = seen(new.run)  # type: ignore[method-assign]
        start(new)

    def watched_submit(pool: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(pool, seen(function) if ledger.here.watched else function, *args, **kwargs)

    threading.Thread.start = watched_start  # type: ignore[assignment, method-assign]
    ThreadPoolExecutor.submit = watched_submit  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]

"""Shared set-up: one thread each, since tests run side by side; who shares counts; why GPU tests skip."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# The reader of lines that pytest loads tells children a width of 80; tables would be drawn for that.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no NVIDIA GPU on this machine")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


# These count the systems of all tables, which takes 40 s once in a process, and little from then on, in its
# copies too.
COUNT_ALL = (
    *("tests/harness/audit/", "tests/commands/test_audit_command.py"),
    *("tests/reports/plots/", "tests/reports/test_report_files.py"),
)


# Many of these files take half a minute: handed out last, one would keep a worker busy when all else is done.
LONG = (
    *(*COUNT_ALL, "tests/test_layout.py", "tests/test_readme.py"),
    *("tests/commands/", "tests/cuda_ops/", "tests/encoders/", "tests/harness/"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under ``--dist loadfile`` the files that count everything go to one worker, as one file would."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    # In the order of the collection, not by their number of tests.
    config.option.loadscopereorder = False

    class BySharedCounts(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "counts" if nodeid.startswith(COUNT_ALL) else super()._split_scope(nodeid)

    return BySharedCounts(config, log)

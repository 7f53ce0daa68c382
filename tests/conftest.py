"""Shared set-up: one thread each, since tests run side by side, and a skip reason for GPU tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)
# The reader of lines that pytest loads tells children a width of 80; tables would be drawn for that.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no NVIDIA GPU on this machine")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)

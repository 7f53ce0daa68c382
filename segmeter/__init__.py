"""segmeter's Python interface; see :mod:`harness.api` for what each name does.

>>> import torch, segmeter
>>> segmeter.count(torch.nn.Linear(8, 16), (4, 8)).macs
512
"""

from harness.api import (
    Count,
    Difference,
    OverBudgetError,
    Profile,
    assert_within_budget,
    count,
    profile,
    register_op,
)
from harness.counter import DataDependentError

__all__ = [
    "Count",
    "DataDependentError",
    "Difference",
    "OverBudgetError",
    "Profile",
    "assert_within_budget",
    "count",
    "profile",
    "register_op",
]

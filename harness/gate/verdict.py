"""One figure of one model, judged."""

from dataclasses import dataclass

from torch import nn

from segmeter.harness.gate.budgets import ModelBudget
from segmeter.harness.gate.changes import Change
from segmeter.harness.gate.snapshot import Snapshot

# Verdicts on one figure.
OVER, WITHIN, UNCOUNTED = "over", "within", "uncounted"
FIGURES = {"total": "work", "params": "parameters", "activations": "bytes"}


@dataclass(frozen=True)
class Verdict:
    """One figure of one model, judged.

    Attributes:
        what: "total", "params", "activations", a component or pattern, or an uncounted operator's name.
        status: "over", "within" or "uncounted".
        now: the figure. before: in the baseline, None without one. most: the limit, None without one.
        unit: MACs, FLOPs, parameters or bytes.
        causes: what explains a change, causes first.
        detail: for an uncounted operator, where it ran and on what shapes.
    """

    model: str
    what: str
    status: str
    now: int
    before: int | None
    most: int | None
    unit: str
    causes: tuple[Change, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    """One model of the budget file, measured; ``module`` is the model that was counted."""

    budget: ModelBudget
    snapshot: Snapshot
    module: nn.Module

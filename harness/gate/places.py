"""Where a reader should look: file and line behind a figure that is not within its budget."""

import re
from pathlib import Path

from segmeter.harness.gate.changes import pattern_of
from segmeter.harness.gate.git_baseline import git
from segmeter.harness.gate.snapshot import Snapshot
from segmeter.harness.gate.verdict import FIGURES, UNCOUNTED, WITHIN, Measured, Verdict
from segmeter.harness.models import source_line

Place = tuple[str, int]


def repository_root(path: Path) -> Path:
    """The root of the git repository that a file lies in; the present folder where it lies in none."""
    try:
        return Path(git(path.resolve().parent, "rev-parse", "--show-toplevel"))
    except ValueError:
        return Path.cwd()


def place_of(verdict: Verdict, measured: Measured, budgets: Path, root: Path) -> Place | None:
    """File, relative to ``root``, and line of the class behind a figure; None for a figure within budget.

    The class is that of the module that changed; of its owner, where a module came or went, since the owner
    is what was edited; of its caller, where a module sees other inputs or runs more often; without a change,
    that of what the limit names. Where no class of the repository is behind it, the place is the model's
    table in the budget file.
    """
    if verdict.status == WITHIN:
        return None
    path = _module_behind(verdict, measured.snapshot)
    found = source_line(measured.module, path, root) if path is not None else None
    return found or _table_of(measured.budget.name, budgets, root)


def _module_behind(verdict: Verdict, snapshot: Snapshot) -> str | None:
    """Path of the module to look at; None for the budget file."""
    if verdict.status == UNCOUNTED:
        path = verdict.detail.partition("first in ")[2].partition(" on ")[0]
        return path if path in snapshot.modules else ""
    if verdict.causes:
        first = verdict.causes[0]
        if first.kind == "asked":
            return None
        if first.kind == "reshaped":
            return first.caller
        return first.path.rpartition(".")[0] if first.kind in ("added", "removed") else first.path
    return "" if verdict.what in FIGURES else _costliest(verdict.what, snapshot)


def _costliest(what: str, snapshot: Snapshot) -> str:
    """Of the modules that a limit's pattern names, the one that costs most."""
    pattern = pattern_of(what)
    found = [
        (cost.work, path)
        for path, cost in snapshot.modules.items()
        if pattern.fullmatch(cost.component) or pattern.fullmatch(path)
    ]
    path = max(found, key=lambda each: each[0])[1] if found else ""
    # What the pattern names, and not what it has inside.
    return ".".join(path.split(".")[: what.count(".") + 1]) if pattern.fullmatch(path) else path


def _table_of(name: str, budgets: Path, root: Path) -> Place:
    """The model's table in the budget file; its first line if it is written in another way."""
    quoted = re.escape(name)
    header = re.compile(rf"\s*\[\s*models\s*\.\s*(\"{quoted}\"|'{quoted}'|{quoted})\s*[].]")
    lines = enumerate(budgets.read_text(encoding="utf-8").splitlines(), start=1)
    line = next((number for number, text in lines if header.match(text)), 1)
    path = budgets.resolve()
    inside = path.is_relative_to(root.resolve())
    return (path.relative_to(root.resolve()) if inside else budgets).as_posix(), line

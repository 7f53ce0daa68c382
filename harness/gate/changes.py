"""What moved between two snapshots: modules added, removed, renamed, changed or reshaped. Needs no torch."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from segmeter.harness.gate.snapshot import ModuleCost, Snapshot

# In the order in which they explain: causes first, then what merely runs on other shapes because of them.
KINDS = ("asked", "added", "removed", "changed", "renamed", "reshaped")
# What a budget file asks for, with which a model is counted.
ASKED = ("model", "size")
# Path, before, after.
Pair = tuple[str, ModuleCost, ModuleCost]


@dataclass(frozen=True)
class Change:
    """One change of a model's structure, or of what its modules run on.

    Attributes:
        kind: one of :data:`KINDS`; ``asked`` is another model or size in the budget file, which moves
            whatever moves; ``reshaped`` modules are themselves unchanged but see other shapes, or run more
            or less often.
        path: module path after the change (before it, where removed).
        text: what happened, in words, without figures of work.
        work: change of work, in units of work. params: change of parameters.
        components: the components that it touches.
        caller: of ``reshaped`` ones, path of the module whose forward hands them what they see: the parent of
            the outermost module in which nothing is as it was.
    """

    kind: str
    path: str
    text: str
    work: int
    params: int
    components: tuple[str, ...]
    caller: str = ""


def changes_between(before: Snapshot, after: Snapshot) -> list[Change]:
    """All changes, causes first and the largest first; empty if the modules are the same."""
    renames = _renames(before.modules, after.modules)
    gone = {p: c for p, c in before.modules.items() if p not in after.modules and p not in renames}
    new = {
        p: c for p, c in after.modules.items() if p not in before.modules and p not in set(renames.values())
    }
    found = [
        *_asked(before, after),
        *_grouped("added", new, _prefixes(before.modules), +1),
        *_grouped("removed", gone, _prefixes(after.modules), -1),
    ]
    reshaped: dict[str, list[Pair]] = {}
    rewritten: dict[tuple[str, str], list[Pair]] = {}
    inside = _parents_of_changes(before.modules, after.modules)
    # In order of path: what explains must not differ from one process to the next.
    for path in sorted(before.modules.keys() & after.modules.keys()):
        old, now = before.modules[path], after.modules[path]
        if (old.kind, old.weights) != (now.kind, now.weights):
            found.append(_changed(path, old, now))
        elif (old.work, old.params) != (now.work, now.params):
            seen_the_same = old.inputs and (old.inputs, old.calls) == (now.inputs, now.calls)
            if seen_the_same and path not in inside:
                rewritten.setdefault((now.kind, now.inputs), []).append((path, old, now))
            else:
                reshaped.setdefault(now.component, []).append((path, old, now))
    found += [_rewritten(rows) for rows in rewritten.values()]
    same = _prefixes(path for path, cost in after.modules.items() if before.modules.get(path) == cost)
    found += [_reshaped(rows, same) for rows in reshaped.values()]
    found += _renamed(renames, after.modules)
    return sorted(found, key=lambda c: (KINDS.index(c.kind), -abs(c.work), -abs(c.params), c.path))


def causes(changes: Iterable[Change], what: str, limit: int = 3) -> list[Change]:
    """The changes that move a figure of what a pattern names ("" for the whole model), causes first."""
    return [c for c in changes if c.kind == "asked" or ((c.work or c.params) and _touches(c, what))][:limit]


def pattern_of(what: str) -> re.Pattern[str]:
    """What matches the components or module paths that a pattern names, with all below them.

    >>> bool(pattern_of("layers.*.ffn").fullmatch("layers.0.ffn.linear1"))
    True
    """
    return re.compile(re.escape(what).replace(r"\*", "[^.]*").replace(r"\?", "[^.]") + r"(\..*)?")


def _touches(change: Change, what: str) -> bool:
    if not what:
        return True
    pattern = pattern_of(what)
    if any(pattern.fullmatch(name) for name in (change.path, *change.components)):
        return True
    # A module that came or went as a whole, with what the pattern names inside it.
    depth = len(change.path.split("."))
    above = ".".join(what.split(".")[:depth])
    whole = change.kind in ("added", "removed") and depth < len(what.split("."))
    return whole and bool(change.path) and pattern_of(above).fullmatch(change.path) is not None


def _asked(before: Snapshot, after: Snapshot) -> list[Change]:
    pairs = [(what, getattr(before, what), getattr(after, what)) for what in ASKED]
    said = [f"{what} {old or 'none'} became {new or 'none'}" for what, old, new in pairs if old != new]
    return [Change("asked", "", f"in the budget file {' and '.join(said)}", 0, 0, ())] if said else []


def _signature(cost: ModuleCost) -> tuple[str, str, int, int, int, str]:
    return cost.kind, cost.weights, cost.params, cost.work, cost.calls, cost.output


def _renames(before: dict[str, ModuleCost], after: dict[str, ModuleCost]) -> dict[str, str]:
    """Old path -> new path of modules that are the same under another name."""
    waiting: dict[tuple[str, str, int, int, int, str], list[str]] = {}
    for path, cost in after.items():
        if path not in before:
            waiting.setdefault(_signature(cost), []).append(path)
    renames = {}
    for path, cost in before.items():
        candidates = waiting.get(_signature(cost), [])
        if path in after or not candidates:
            continue
        last = path.rpartition(".")[2]
        best = next((c for c in candidates if c.rpartition(".")[2] == last), candidates[0])
        candidates.remove(best)
        renames[path] = best
    return renames


def _renamed(renames: dict[str, str], after: dict[str, ModuleCost]) -> list[Change]:
    """One change for each renamed parent: what stays the same at the end of both paths is cut off."""
    pairs: dict[tuple[str, str], set[str]] = {}
    for old, new in renames.items():
        component = after[new].component
        names_old, names_new = old.split("."), new.split(".")
        while len(names_old) > 1 and len(names_new) > 1 and names_old[-1] == names_new[-1]:
            names_old.pop()
            names_new.pop()
        pairs.setdefault((".".join(names_old), ".".join(names_new)), set()).add(component)
    return [
        Change("renamed", new, f"{old} was renamed to {new}", 0, 0, tuple(sorted(components)))
        for (old, new), components in pairs.items()
    ]


def _prefixes(paths: Iterable[str]) -> set[str]:
    """The paths and all their parents."""
    found: set[str] = set()
    for path in paths:
        names = path.split(".") if path else []
        found.update(".".join(names[:length]) for length in range(len(names) + 1))
    return found


def _grouped(kind: str, modules: dict[str, ModuleCost], elsewhere: set[str], sign: int) -> list[Change]:
    """One change for each outermost parent that the other side does not have."""
    groups: dict[str, dict[str, ModuleCost]] = {}
    for path, cost in modules.items():
        names = path.split(".")
        parents = (".".join(names[:length]) for length in range(1, len(names) + 1))
        top = next((p for p in parents if p not in elsewhere), path)
        groups.setdefault(top, {})[path] = cost
    changes = []
    for top, rows in groups.items():
        if top in elsewhere:
            # It was there and is there: its own forward is what began or ceased to do work.
            changes.append(_own_work(top, rows[top], sign))
            continue
        largest = max(rows.values(), key=lambda c: (c.work, c.params))
        what = (
            _described(largest)
            if len(rows) == 1
            else f"{len(rows)} modules, among them {_described(largest)}"
        )
        changes.append(
            Change(
                kind,
                top,
                f"{top or 'the model itself'} was {kind}: {what}",
                sign * sum(c.work for c in rows.values()),
                sign * sum(c.params for c in rows.values()),
                tuple(sorted({c.component for c in rows.values()})),
            )
        )
    return changes


def _own_work(path: str, cost: ModuleCost, sign: int) -> Change:
    """A module whose work was all inside its children, before or after."""
    gives = f", giving {cost.output}" if cost.output and sign > 0 else ""
    does = "does work of its own now" if sign > 0 else "does no work of its own any more"
    return Change(
        "changed",
        path,
        f"{path or 'the model itself'}: the forward of {cost.kind} changed: it {does}{gives}",
        sign * cost.work,
        sign * cost.params,
        (cost.component,),
    )


def _changed(path: str, old: ModuleCost, now: ModuleCost) -> Change:
    if old.kind != now.kind:
        what = f"{_described(old)} became {_described(now)}"
    else:
        what = f"{now.kind} {old.weights or 'without weights'} became {now.weights or 'without weights'}"
    if "(=" in old.weights and "(=" not in now.weights:
        what += ", no longer shared"
    return Change(
        "changed",
        path,
        f"{path or 'the model itself'}: {what}",
        now.work - old.work,
        now.params - old.params,
        tuple(sorted({old.component, now.component})),
    )


def _parents_of_changes(before: dict[str, ModuleCost], after: dict[str, ModuleCost]) -> set[str]:
    """The modules with a module inside them that is new, gone, or not as it was."""
    moved = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return _prefixes(path.rpartition(".")[0] for path in moved if path)


def _rewritten(rows: list[Pair]) -> Change:
    """Modules of one class with the weights and inputs that they had, and with nothing new inside."""
    path, old, now = max(rows, key=lambda row: abs(row[2].work - row[1].work))
    others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    gives = ""
    if old.output != now.output:
        gives = f", giving {now.output or 'none'} instead of {old.output or 'none'}"
    return Change(
        "changed",
        path,
        f"{path or 'the model itself'}{others}: the forward or the settings of {now.kind} changed: "
        f"other work on the same input {now.inputs}{gives}",
        sum(now.work - old.work for _, old, now in rows),
        sum(now.params - old.params for _, old, now in rows),
        tuple(sorted({now.component for _, _, now in rows})),
    )


def _reshaped(rows: list[Pair], same: set[str]) -> Change:
    """The modules of one component that did not change but do another amount of work.

    Args:
        rows: the modules.
        same: paths of all modules that are as they were, and of all in which one is.
    """
    path, old, now = max(rows, key=lambda row: abs(row[2].work - row[1].work))
    if old.calls != now.calls:
        why = f"runs {now.calls}x instead of {old.calls}x"
    elif old.output != now.output:
        why = f"output {old.output or 'none'} became {now.output or 'none'}"
    elif old.inputs and old.inputs != now.inputs:
        why = f"input {old.inputs} became {now.inputs or 'none'}"
    elif old.inputs:
        why = "what is inside it changed"
    else:
        why = "its inputs or its forward changed"
    others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return Change(
        "reshaped",
        path,
        f"{path or 'the model itself'}{others}, unchanged themselves: {why}",
        sum(now.work - old.work for _, old, now in rows),
        sum(now.params - old.params for _, old, now in rows),
        (now.component,),
        _caller(path, same),
    )


def _caller(path: str, same: set[str]) -> str:
    names = path.split(".")
    outermost = next((n for n in range(1, len(names)) if ".".join(names[:n]) not in same), len(names))
    return ".".join(names[: outermost - 1])


def _described(cost: ModuleCost) -> str:
    parts = [cost.kind, cost.weights, f"giving {cost.output}" if cost.output else ""]
    times = f", {cost.calls}x" if cost.calls > 1 else ""
    return " ".join(part for part in parts if part) + times

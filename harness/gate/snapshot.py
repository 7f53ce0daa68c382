"""A model's cost as plain data that can be written down, reviewed and compared later. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from segmeter.files import read_json
from segmeter.harness.records import write_text
from segmeter.plain import shown

SCHEMA = "segmeter.baseline/2"
# Without the modules' inputs.
BEFORE = "segmeter.baseline/1"
UPDATE = "write it with `segmeter baseline update`"


@dataclass(frozen=True)
class ModuleCost:
    """One module's own cost, without its children's.

    Attributes:
        kind: class name.
        weights: own parameters with their shapes.
        params: own parameter elements; a shared parameter counts at its first owner.
        work: MACs or FLOPs, in the snapshot's convention.
        calls: how often it ran.
        inputs: shapes of the tensors that it was first given, e.g. "1x100x256 1x5440x256"; "" if none, or if
            the baseline is of before they were kept.
        output: shape of the first tensor it returned, e.g. "1x100x256"; "" if none.
        component: the component it belongs to.
    """

    kind: str
    weights: str
    params: int
    work: int
    calls: int
    inputs: str
    output: str
    component: str


@dataclass(frozen=True)
class Snapshot:
    """One model at one size. All figures are whole numbers.

    Attributes:
        model: how the model is written, e.g. "m2f@swin-t".
        size: padded size, e.g. "1024x2048".
        convention: published, macs or flops; ``total`` and all ``work`` are in its unit of work.
        total: work of one forward pass.
        params: parameters of the model.
        activation_bytes: bytes that operators with multiply-accumulates write.
        modules: path -> cost, for modules that have parameters or do work.
        uncounted: operators without a formula -> how often they ran where, and on what shapes.
    """

    model: str
    size: str
    convention: str
    total: int
    params: int
    activation_bytes: int
    modules: dict[str, ModuleCost]
    uncounted: dict[str, str]

    @property
    def components(self) -> dict[str, int]:
        """Dotted component -> its own work, without that of the components below it."""
        found: dict[str, int] = {}
        for cost in self.modules.values():
            found[cost.component] = found.get(cost.component, 0) + cost.work
        return found


def write_baseline(path: Path, snapshots: Mapping[str, Snapshot]) -> None:
    """Write snapshots as sorted JSON, one module a line, so that a review shows what moved."""
    write_text(path, baseline_text(snapshots))


def baseline_text(snapshots: Mapping[str, Snapshot]) -> str:
    """The text of a baseline file: valid JSON, sorted, without anything that changes from run to run."""
    models = []
    for name in sorted(snapshots):
        content = asdict(snapshots[name])
        modules = content.pop("modules")
        head = [f"      {json.dumps(key)}: {_compact(content[key])}" for key in sorted(content)]
        rows = [f"        {json.dumps(path)}: {_compact(modules[path])}" for path in sorted(modules)]
        head.append('      "modules": {\n' + ",\n".join(rows) + "\n      }")
        models.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(head) + "\n    }")
    body = ",\n".join(models)
    return f'{{\n  "schema": "{SCHEMA}",\n  "models": {{\n{body}\n  }}\n}}\n'


def read_baseline(path: Path) -> dict[str, Snapshot]:
    """Read a baseline file.

    Raises:
        ValueError: missing, no JSON, of another schema, or incomplete.
    """
    if not path.exists():
        raise ValueError(f"no baseline {path}; {UPDATE}")
    content = read_json(path, "baseline")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (SCHEMA, BEFORE):
        raise ValueError(f"baseline {path} has schema {shown(schema)}, expected {SCHEMA!r}; {UPDATE}")
    models = content.get("models")
    if not isinstance(models, dict):
        raise ValueError(f"baseline {path} has no table of models; {UPDATE}")
    old = schema == BEFORE
    return {name: _snapshot(f"baseline {path}, model {name!r}", row, old) for name, row in models.items()}


def _snapshot(where: str, row: Any, old: bool) -> Snapshot:
    _check_fields(where, row, Snapshot)
    if not all(isinstance(v, str) for v in row["uncounted"].values()):
        raise ValueError(f"{where}: uncounted must map names to text")
    modules = {}
    for path, cost in row["modules"].items():
        if old and isinstance(cost, dict):
            cost = {"inputs": "", **cost}
        _check_fields(f"{where}, module {path!r}", cost, ModuleCost)
        modules[path] = ModuleCost(**cost)
    for name, parts in (
        ("total", [cost.work for cost in modules.values()]),
        ("params", [cost.params for cost in modules.values()]),
    ):
        if row[name] != sum(parts):
            raise ValueError(f"{where}: {name} is {row[name]}, its modules add up to {sum(parts)}; {UPDATE}")
    return Snapshot(**{**row, "modules": modules})


def _check_fields(where: str, row: Any, kind: type[Snapshot] | type[ModuleCost]) -> None:
    types: dict[Any, type] = {str: str, int: int}
    names = {f.name: types.get(f.type, dict) for f in fields(kind)}
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"{where} must have exactly the keys {', '.join(names)}")
    for name, wanted in names.items():
        value = row[name]
        beyond = isinstance(value, int) and not 0 <= value < 2**63
        if not isinstance(value, wanted) or isinstance(value, bool) or beyond:
            expected = "a whole number >= 0, below 2^63" if wanted is int else f"a {wanted.__name__}"
            raise ValueError(f"{where}: {name} must be {expected}, got {shown(value)}")


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)

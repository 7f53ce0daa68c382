"""The rooms' doors: who may import whom, what is loaded when, and what the project says of itself."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

ROOMS = ("commands", "cuda_ops", "encoders", "harness", "reports")
# Room -> rooms it may import from. The data goes one way: spec, model, profile, record, table.
DOORS = {
    "cuda_ops": {"cuda_ops"},
    "encoders": {"cuda_ops", "encoders"},
    "harness": {"cuda_ops", "encoders", "harness"},
    "commands": set(ROOMS),
}
RECORDS = {"segmeter.harness.records.flops"}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", DOORS)
def test_a_room_imports_only_through_its_doors(room: str) -> None:
    for path in modules(room):
        for name in imports_of(path):
            other = name.split(".")[0]
            if other in ROOMS:
                assert other in DOORS[room], f"{path.relative_to(ROOT)} imports {name}"


def test_importing_all_of_reports_loads_neither_torch_nor_pandas() -> None:
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules("reports")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
        "print(sorted({'torch', 'encoders', 'cuda_ops'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_help_needs_nothing_heavy() -> None:
    heavy = {"torch", "pandas", "matplotlib", "numpy", "timm"}
    code = f"import sys, cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_only_the_op_and_the_counters_know_the_ops_internals() -> None:
    for path in modules("encoders"):
        for name in imports_of(path):
            assert not name.startswith("cuda_ops."), f"{path.name} imports {name}"


def test_every_room_is_packaged() -> None:
    tomllib = pytest.importorskip("tomllib")
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for room in ROOMS:
        for path in modules(room):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            assert f"segmeter.{package}" in packages, f"{package} is not packaged"


def doctested() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ROOMS
        for path in modules(room)
        if ">>>" in path.read_text()
    ]


@pytest.mark.parametrize("name", doctested())
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted and not outcome.failed

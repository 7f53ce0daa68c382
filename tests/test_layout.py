"""The house: who may import whom, what is loaded when, and that one name is all that gets installed."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers import imports
from tests.helpers.architecture import PAGE, PICTURE, page_table, picture
from tests.helpers.places import ROOT

# What needs nothing of the package and may be used everywhere.
GROUND = {"words", "plain", "files", "compiler", "model_text"}
STOOD_ON = {"inputs", "published", "records", "machine", "models", "counting", "weights"}
# Room -> rooms of the harness that it may import.
HARNESS = {
    "inputs": set(),
    "published": {"inputs"},
    "records": {"published"},
    "machine": set(),
    "models": {"published", "inputs"},
    "counting": {"models", "inputs", "records"},
    "weights": {"models", "records"},
    "op": {"machine", "records"},
    "export": {"models", "inputs"},
    "profiling": STOOD_ON | {"export"},
    **dict.fromkeys(
        (
            "card",
            "crosscheck",
            "gate",
            "leaderboard",
            "paper",
            "tradeoff",
            "audit",
            "quality",
            "tokens",
        ),
        STOOD_ON,
    ),
}
FOLDERS = set(HARNESS)
OVER_ALL = {"api", "catalogue", "report"}
WITHOUT_MODELS = {"inputs", "published", "records", "machine", "op"}
MAX_LINES, MAX_FLOORS = 400, 6


def allowed(room: str) -> set[str]:
    if room.startswith("harness."):
        name = room.removeprefix("harness.")
        within = FOLDERS | OVER_ALL - {name} if name in OVER_ALL else HARNESS[name]
        below = {"cuda_ops"} if name in WITHOUT_MODELS else {"cuda_ops", "encoders"}
        if name in ("inputs", "published", "records"):
            below = set()
        if name == "api":
            # What it gives is printed as the commands print it.
            below |= {"reports"}
        return {f"harness.{other}" for other in within} | below | GROUND
    return {
        **dict.fromkeys(GROUND, GROUND),
        "cuda_ops": GROUND,
        "encoders": {"cuda_ops"} | GROUND,
        "reports": {"harness.records", "results"} | GROUND,
        "segmeter": {"encoders", "harness.api", "harness.counting", "ops"},
        "ops": {"cuda_ops"},
        "results": set(),
        "cli": {"commands"},
        "__main__": {"commands"},
    }[room]


@pytest.mark.parametrize("room", sorted(imports.rooms()))
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    if room == "commands":
        return
    for module, others in imports.graph().items():
        if imports.room(module) != room:
            continue
        for other in others:
            # The one type that reports take from elsewhere: the result of a photo.
            if (room, other) == ("reports", "segmeter.harness.quality.predict"):
                continue
            to = imports.room(other)
            assert to == room or to in allowed(room), f"{module} imports {other}"


def test_there_are_no_circles() -> None:
    assert imports.circles(imports.graph()) == []
    assert imports.circles(imports.rooms()) == []


def test_other_rooms_are_entered_by_their_doors() -> None:
    for module in imports.modules():
        for written, name in imports.imported(module):
            room = imports.room(written)
            if room == imports.room(module) or not (room.startswith("harness.") or room == "cuda_ops"):
                continue
            if room.removeprefix("harness.") in OVER_ALL:
                continue
            door = f"segmeter.{room}"
            is_module = f"{written}.{name}" in imports.modules()
            assert written == door, f"{module} imports {name} from {written}, not from {door}"
            assert name in imports.doors()[door] or (room == "cuda_ops" and is_module), (
                f"{door} has no {name}"
            )


def test_doors_open() -> None:
    for room, names in imports.doors().items():
        assert len(names) == len(set(names))
        for name, home in names.items():
            # A door cannot hold a module's name: which of the two it gave would depend on who came first.
            assert f"{room}.{name}" not in imports.modules(), f"{room}: {name} is a module too"
            assert getattr(importlib.import_module(room), name) is getattr(
                importlib.import_module(home), name
            )


def test_underscore_names_stay_in_their_file() -> None:
    for module in imports.modules():
        for written, name in imports.imported(module):
            assert not name.startswith("_"), f"{module} imports {name} from {written}"


def test_the_harness_has_few_floors_and_no_stray_files() -> None:
    edges = {
        room: {other for other in others if other.startswith("harness.")}
        for room, others in imports.rooms().items()
        if room.startswith("harness.")
    }
    assert max(imports.floor(room, edges) for room in edges) <= MAX_FLOORS
    files = {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__"}
    assert files == OVER_ALL
    folders = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert folders == FOLDERS


def test_no_file_is_long() -> None:
    for path in imports.modules().values():
        assert len(path.read_text().splitlines()) <= MAX_LINES, f"{path.relative_to(ROOT)} wants to be two"


def test_the_tests_mirror_the_rooms() -> None:
    for path in (ROOT / "tests" / "harness").glob("*/"):
        assert path.name in FOLDERS or path.name == "__pycache__", f"{path} tests no room"


def test_the_page_on_the_house_is_as_the_imports_are() -> None:
    assert PICTURE.read_text() == picture(), "run python -m tests.helpers.architecture"
    assert page_table() in PAGE.read_text(), "run python -m tests.helpers.architecture"


def test_no_box_of_the_picture_lies_on_another_and_names_fit() -> None:
    boxes = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)".*?>([\w.]+)</text>', picture())
    assert len(boxes) > 20
    rows: dict[int, list[tuple[int, int]]] = {}
    for x, y, width, name in boxes:
        rows.setdefault(int(y), []).append((int(x), int(x) + int(width)))
        # A letter of 13 pixels is at most 8 wide on the average.
        assert int(width) >= 8 * len(name), name
    for row in rows.values():
        row.sort()
        assert all(end < start for (_, end), (start, _) in pairwise(row))


def loaded(code: str, heavy: set[str]) -> str:
    code = f"import sys\n{code}\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_importing_all_of_reports_loads_no_torch() -> None:
    names = [name for name in imports.modules() if name.startswith("segmeter.reports")]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    assert loaded(code, {"torch", "segmeter.encoders", "segmeter.cuda_ops"}) == "[]"


def test_reading_records_loads_no_torch() -> None:
    code = "from segmeter.harness.records import read_runs, compare_runs"
    assert loaded(code, {"torch", "pandas", "matplotlib", "timm"}) == "[]"


def test_help_needs_nothing_heavy() -> None:
    assert loaded("import segmeter, cli", {"torch", "pandas", "matplotlib", "numpy", "timm"}) == "[]"


def test_every_room_is_packaged() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for name, path in imports.modules().items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        assert package in packages, f"{package} is not packaged"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without its history, since setuptools builds in the source's folder."""
    out = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes((ROOT / name).read_bytes())
    return out


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


def test_a_source_distribution_is_the_checkout(source: Path, tmp_path: Path) -> None:
    had = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as file:
        inside = {Path(*Path(name).parts[1:]) for name in file.getnames()}
    made = {path for path in had if path.parts[0] in ("build", "segmeter.egg-info")}
    assert not (had - made) - inside


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"segmeter"}
    # Each module of the checkout, and the files that modules read.
    inside = {name for name in names if name.endswith(".py")}
    for name, path in imports.modules().items():
        place = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        assert place in inside, f"{place} is not in the wheel"
    for place in (
        "harness/audit/__init__.pyi",
        "cuda_ops/csrc/cpu.cpp",
        "commands/known.json",
        "py.typed",
    ):
        assert f"segmeter/{place}" in names


# A user's repository whose folders have the names that segmeter's rooms have.
OWN_ROOMS = ("encoders", "harness", "results", "reports", "commands", "cuda_ops")
OWN_TEST = """
import torch
import encoders, harness, results, reports, commands, cuda_ops, cli

def test_budget(segmeter):
    for room in (encoders, harness, results, reports, commands, cuda_ops, cli):
        assert room.MINE
    segmeter.assert_within_budget(torch.nn.Linear(8, 16), (1, 8), total="128 MACs")
"""
OWN_BUDGET = """
size = "64x64"

[models.plain]
model = "mine.py:Plain"
limits = { total = "1 MMACs" }
"""
OWN_MODEL = """
import torch
from encoders.conv import width

class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 3, padding=1)

    def forward(self, image):
        return self.conv(image)
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what it depends on is borrowed from this one."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next(home.glob("lib/python3*/site-packages"))
    here = Path(importlib.import_module("torch").__file__ or "").parents[1]
    (site / "borrowed.pth").write_text(f"{here}\n")
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    return home / "bin"


def test_a_repository_with_folders_of_the_same_names_is_unharmed(installed: Path, tmp_path: Path) -> None:
    for room in OWN_ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "cli.py").write_text("MINE = True\n")
    (tmp_path / "encoders" / "conv.py").write_text("width = 4\n")
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    (tmp_path / "test_own.py").write_text(OWN_TEST)
    (tmp_path / "budgets.toml").write_text(OWN_BUDGET)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    python, segmeter = str(installed / "python"), str(installed / "segmeter")
    where = run(python, "-c", "import encoders, harness, segmeter; print(encoders.MINE, segmeter.__file__)")
    assert where.stdout.startswith("True ") and str(installed.parent) in where.stdout, where.stderr
    # 64 * 64 * 4 * 27 MACs: the model is the user's, found beside the user's own packages.
    counted = run(segmeter, "flops", "mine.py:Plain", "--padded-size", "64x64", "--json")
    assert '"total_gmacs": 0.000442368' in counted.stdout, counted.stderr
    ours = run(segmeter, "flops", "m2f@r50", "--padded-size", "64x64")
    assert ours.returncode == 0, ours.stderr
    checked = run(segmeter, "check", "budgets.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0 and "1 passed" in tested.stdout, tested.stdout + tested.stderr


def test_data_come_with_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Commands of the README, in an empty folder: sizes, published figures and schemas are inside."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed / "segmeter"), *words], cwd=tmp_path, capture_output=True, text=True
        )

    assert run("--version").stdout.startswith("segmeter ")
    tiny = "import torch\n\ndef tiny():\n    return torch.nn.Conv2d(3, 1, 1)\n"
    (tmp_path / "mine.py").write_text(tiny)
    sizes = run("flops", "mine.py:tiny", "--dataset", "coco-val2017:100", "--json")
    assert '"images": 100' in sizes.stdout, sizes.stderr
    carded = run("card", "mine.py:tiny", "--padded-size", "64x64", "--out", "card.json")
    shown = run("card", "show", "card.json", "--out", "badge.svg")
    assert carded.returncode == shown.returncode == 0, carded.stderr + shown.stderr
    printed = run("reproduce", "--table", "2")
    assert printed.returncode == 0 and "55.14" in printed.stdout, printed.stderr
    for words in (["check", "results/budgets.toml"], ["compare", "--from", "results/records"]):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert words[-1] in done.stderr and done.stdout == ""


def doctested() -> list[str]:
    return [name for name, path in imports.modules().items() if ">>>" in path.read_text()]


@pytest.mark.parametrize("name", doctested())
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted and not outcome.failed


def test_no_source_of_the_package_is_unreadable() -> None:
    for path in imports.modules().values():
        ast.parse(path.read_text())

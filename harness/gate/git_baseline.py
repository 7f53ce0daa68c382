"""A baseline from another revision: count it in a git worktree of its own, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from segmeter.files import SITE, read_toml
from segmeter.harness.gate.budgets import read_budgets
from segmeter.harness.gate.snapshot import Snapshot, read_baseline

PREFIX = "git:"
# What a budget file says of how a model is counted: as the revision had it, and as it is today.
ASKED = ("model", "size", "num_classes", "num_queries", "options")
KEPT = ("convention", "components")
TIMEOUT_S = 600
# Count, then make sure that nothing came from the working tree, as an editable install would have it.
_COUNT = """
import sys
from pathlib import Path
root, tree = Path(sys.argv[1]), Path(sys.argv[2])
if (tree / "segmeter.py").is_file() and (tree / "harness" / "gate.py").is_file():
    # segmeter's own revisions from before it had one name.
    from cli import main
else:
    from segmeter.commands.main import main
try:
    main(sys.argv[3:])
except SystemExit as stopped:
    code = stopped.code
files = {n: Path(m.__file__).resolve() for n, m in list(sys.modules.items()) if getattr(m, "__file__", None)}
strays = [n for n, f in files.items() if f.is_relative_to(root) and not f.is_relative_to(tree)
          and "site-packages" not in f.parts]
if strays and not code:
    sys.exit(f"{strays[0]} came from the working tree ({files[strays[0]]}), not from the revision; "
             "make its folder importable from the repository's root or from src")
sys.exit(code)
"""


def revision_baseline(revision: str, budgets: Path) -> dict[str, Snapshot]:
    """Snapshots of the budget file's models as they were at a revision.

    The code is the revision's, and so is what its budget file asked for: another size or other options count
    as a change like any other. The convention and the components are today's, so that figures compare. A
    model that the revision cannot build is left out: it is new.

    Raises:
        ValueError: not in a git repository, no such revision, or it cannot be counted at all.
    """
    root = Path(git(budgets.resolve().parent, "rev-parse", "--show-toplevel"))
    if revision.startswith("-"):
        raise ValueError(f"no git revision {revision!r}")
    try:
        commit = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", what=revision)
    except ValueError as error:
        # What a CI's checkout does unless told otherwise.
        if git(root, "rev-parse", "--is-shallow-repository") == "true":
            raise ValueError(
                f"{error}: this clone is shallow; fetch its history, e.g. fetch-depth: 0"
            ) from None
        raise
    with tempfile.TemporaryDirectory(prefix="segmeter-") as folder:
        tree, output = Path(folder) / "tree", Path(folder) / "baseline.json"
        git(root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            there = tree / budgets.resolve().relative_to(root.resolve())
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(_asked_then(budgets, there), encoding="utf-8")
            _count(root, tree, there, output, revision)
        finally:
            git(root, "worktree", "remove", "--force", str(tree))
        return read_baseline(output)


def _asked_then(today: Path, then: Path) -> str:
    """The text of a budget file with today's models, each counted as the revision's file asked."""
    now, before = _tables(today), {}
    if then.is_file():
        try:
            read_budgets(then)
            before = _tables(then)
        except ValueError:
            # What today's segmeter cannot read says nothing of what was asked.
            before = {}
    lines = []
    for name, table in now.items():
        asked = before.get(name, table)
        kept = {key: value for key, value in table.items() if key in KEPT}
        lines.append(f"[models.{_toml(name)}]")
        wanted = {key: asked[key] for key in ASKED if key in asked} | kept
        lines += [f"{_toml(key)} = {_toml(value)}" for key, value in wanted.items()]
    return "\n".join(lines) + "\n"


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """Each model's table, with what the file says for all."""
    content = read_toml(path, "budget file")
    shared = {key: value for key, value in content.items() if key not in ("models", "baseline")}
    return {name: {**shared, **table} for name, table in content["models"].items()}


def _toml(value: Any) -> str:
    """A value as TOML; JSON's text and numbers are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if not isinstance(value, str | bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _count(root: Path, tree: Path, budgets: Path, output: Path, revision: str) -> None:
    """Run this tool on the other tree; a package that the tree holds itself comes from the tree."""
    here, root = SITE, root.resolve()
    # What this process imports from the working tree, as editable installs arrange it, the other one imports
    # from the revision.
    inside = [Path(each).resolve() for each in sys.path if each]
    inside = [each for each in inside if each.is_relative_to(root) and "site-packages" not in each.parts]
    paths = [tree, tree / "src", *(tree / each.relative_to(root) for each in inside), here]
    environment = {**_environment(), "PYTHONPATH": os.pathsep.join(dict.fromkeys(map(str, paths)))}
    command = [
        sys.executable,
        "-c",
        _COUNT,
        str(root),
        str(tree.resolve()),
        "baseline",
        "update",
        str(budgets),
    ]
    command += ["--output", str(output), "--skip-failing"]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{PREFIX}{revision} took more than {TIMEOUT_S} seconds to count") from None
    if done.returncode or not output.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{PREFIX}{revision} cannot be counted: {last.removeprefix('segmeter: ')}")


def _environment() -> dict[str, str]:
    """Without git's own variables: inside a hook they point at the repository that runs it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def git(folder: Path, *arguments: str, what: str = "") -> str:
    """What a git command prints.

    Raises:
        ValueError: git is not there, or fails; ``what`` is then the revision that there is not.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=_environment(), capture_output=True, text=True
        )
    except FileNotFoundError:
        raise ValueError("git is not installed, but a git: baseline needs it") from None
    if done.returncode:
        if what:
            raise ValueError(f"no git revision {what!r}")
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"git {arguments[0]} failed in {folder}: {message}")
    return done.stdout.strip()

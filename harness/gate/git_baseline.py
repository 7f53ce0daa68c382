"""A baseline from another revision: count it in a git worktree of its own, in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from segmeter.files import SITE
from segmeter.harness.gate.snapshot import Snapshot, read_baseline

PREFIX = "git:"
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

    The budget file is today's; the code is the revision's. A model that the revision cannot build is left
    out: it is new.

    Raises:
        ValueError: not in a git repository, no such revision, or it cannot be counted at all.
    """
    root = Path(_git(budgets.resolve().parent, "rev-parse", "--show-toplevel"))
    if revision.startswith("-"):
        raise ValueError(f"no git revision {revision!r}")
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", what=revision)
    with tempfile.TemporaryDirectory(prefix="segmeter-") as folder:
        tree, output = Path(folder) / "tree", Path(folder) / "baseline.json"
        _git(root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            there = tree / budgets.resolve().relative_to(root.resolve())
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(budgets.read_bytes())
            _count(root, tree, there, output, revision)
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))
        return read_baseline(output)


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


def _git(folder: Path, *arguments: str, what: str = "") -> str:
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

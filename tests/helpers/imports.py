"""Who imports whom, read from the source: module by module, and room by room."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.helpers.places import ROOT

TOPS = ("commands", "cuda_ops", "encoders", "harness", "reports", "results", "segmeter")
PACKAGE = "segmeter"


def module_name(path: Path) -> str:
    """The import name of a file of the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == PACKAGE else (PACKAGE, *parts)).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    return {module_name(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}


@cache
def doors() -> dict[str, dict[str, str]]:
    """Room -> public name -> the module that it is in, as the rooms' ``__init__.pyi`` say."""
    found = {}
    for name, path in modules().items():
        stub = path.with_name("__init__.pyi")
        if path.name == "__init__.py" and stub.exists():
            tree = ast.parse(stub.read_text())
            found[name] = {
                alias.name: f"{name}.{node.module}"
                for node in tree.body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
    return found


@cache
def imported(module: str) -> tuple[tuple[str, str], ...]:
    """(module as written, name) of each import of the package, within functions too; name "" for a module."""
    found = []
    for node in _statements(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == PACKAGE]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            assert node.module
            found += [(node.module, alias.name) for alias in node.names]
    return tuple(found)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements, at any depth; no expression holds one."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        within = getattr(tree, block, ())
        for statement in within if isinstance(within, list) else ():
            yield statement
            yield from _statements(statement)


def target(written: str, name: str) -> str:
    """The module that an import leads to, through a door where there is one."""
    behind = doors().get(written, {}).get(name)
    return behind or (f"{written}.{name}" if f"{written}.{name}" in modules() else written)


def graph() -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    return {m: {target(*pair) for pair in imported(m)} - {m} for m in modules()}


def room(module: str) -> str:
    """A module's room: ``harness.counting``, ``encoders``; a file beside the folders is a room of its own."""
    parts = module.split(".")[1:] or [PACKAGE]
    if parts[0] == "harness":
        return ".".join(parts[:2])
    return parts[0]


def rooms() -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module, others in graph().items():
        found.setdefault(room(module), set()).update(room(o) for o in others if room(o) != room(module))
    return found


def circles(edges: dict[str, set[str]]) -> list[str]:
    """What can be reached from itself."""
    return sorted(node for node in edges if node in reached(edges, edges[node]))


def reached(edges: dict[str, set[str]], start: set[str]) -> set[str]:
    """All that lies behind some nodes, themselves included."""
    seen: set[str] = set()
    left = list(start)
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left += edges.get(node, ())
    return seen


def floor(name: str, edges: dict[str, set[str]]) -> int:
    """How many rooms stand on each other up to this one, itself included."""
    return 1 + max((floor(other, edges) for other in edges.get(name, ())), default=0)

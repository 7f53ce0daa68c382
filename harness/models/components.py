"""From module paths to the components that the tables name.

A module may describe its parts with a method ``components() -> dict[str, str]``: a pattern over submodule
paths (``*`` and ``?`` match within one name) -> a dotted component name, in which a last ``.*`` stands for
the path below what was matched. The innermost module decides: its own path is tried against the patterns
first, then its parent's, and so on. Where no module describes itself, the component is the module path,
which makes any model readable at any depth.
"""

import re
from collections.abc import Callable, Mapping

from torch import nn

from segmeter.harness.models.structure import named_parts


def component_finder(
    root: nn.Module, patterns: Mapping[str, str] | None = None, at: str = ""
) -> Callable[[str], str]:
    """A function from module path to dotted component name, for ``root`` and all below it.

    Args:
        root: the model.
        patterns: a description from outside of the module at the path ``at``, tried before its own
            ``components()``.
        at: a module's path; "" is ``root`` itself.
    """
    described = {
        name: [(_to_regex(pattern), component) for pattern, component in describe().items()]
        for name, module in named_parts(root)
        if callable(describe := getattr(module, "components", None))
    }
    if patterns:
        outside = [(_to_regex(pattern), component) for pattern, component in patterns.items()]
        described[at] = outside + described.get(at, [])
    known: dict[str, str] = {}

    def find(path: str) -> str:
        if path not in known:
            known[path] = _find(path, described)
        return known[path]

    return find


def outside(patterns: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Those of the other patterns that lie under none of the first.

    >>> outside({"layers": "mine"}, {"layers.*.mlp": "ffn", "head": "head"})
    {'head': 'head'}
    """
    known = [_to_regex(pattern) for pattern in patterns]
    return {
        path: component
        for path, component in others.items()
        if not any(pattern.fullmatch(each) for pattern in known for each in _with_parents(path))
    }


Described = dict[str, list[tuple[re.Pattern[str], str]]]


def _find(path: str, described: Described) -> str:
    owner = next((p for p in _with_parents(path) if p in described), None)
    if owner is None:
        return path
    if owner == path and path:
        # What a part runs itself is described by the part; its own place by the model around it.
        outer = _place(path, described)
        return _join(outer, _match("", described[path]) or "")
    inside = path[len(owner) :].removeprefix(".")
    return _join(_place(owner, described), _match(inside, described[owner]) or inside)


def _place(path: str, described: Described) -> str:
    """Component of a described part within the models around it."""
    if not path:
        return ""
    owner = next((p for p in _with_parents(path)[1:] if p in described), None)
    if owner is None:
        return path
    inside = path[len(owner) :].removeprefix(".")
    return _join(_place(owner, described), _match(inside, described[owner]) or inside)


def _match(path: str, patterns: list[tuple[re.Pattern[str], str]]) -> str | None:
    for candidate in _with_parents(path):
        for pattern, component in patterns:
            if pattern.fullmatch(candidate):
                below = path[len(candidate) :].removeprefix(".")
                return _join(component[:-2], below) if component.endswith(".*") else component
    return None


def _with_parents(path: str) -> list[str]:
    """The path, its parents from the inside out, and the root "".

    >>> _with_parents("a.b")
    ['a.b', 'a', '']
    """
    names = path.split(".") if path else []
    return [".".join(names[:length]) for length in range(len(names), -1, -1)]


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _to_regex(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", "[^.]*").replace(r"\?", "[^.]")
    return re.compile(escaped)

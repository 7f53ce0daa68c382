"""Models of libraries and of the user's own: what their files tell of a wrong name, with nothing imported.

Libraries are read as text: to import timm or transformers takes seconds. Whatever cannot be told so is left
to whoever loads the model.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from segmeter.model_text import library_name, read_own_file, source_parts
from segmeter.words import nearest

# Folders of torchvision's models that take no single images.
NO_IMAGES = ("video", "optical_flow")
# In a module with one of these, names may come from anywhere.
ANY_NAME = ("globals", "exec", "eval", "setattr", "vars", "locals", "__import__")


@cache
def timm_names() -> frozenset[str]:
    """The names of timm's models, read from its files."""
    found = re.findall(r"^@register_model\s*\ndef (\w+)\(", _timm_text(), flags=re.MULTILINE)
    return frozenset(found)


@cache
def torchvision_names() -> frozenset[str]:
    """The names of torchvision's models of single images."""
    pattern = r"^@register_model\((?:name=)?(?:\"(\w+)\")?\)\n(?:@.*\n|\s+.*\n|\)\n)*def (\w+)\("
    return frozenset(
        named or function
        for path in _files("torchvision", "models/**/*.py")
        if path.parent.name not in NO_IMAGES
        for named, function in re.findall(pattern, _text(path), flags=re.MULTILINE)
    )


def check_library(source: str) -> None:
    """Refuse the name of a library's model that it does not have.

    Raises:
        ValueError: with the nearest.
    """
    library, name = library_name(source) or ("", "")
    if library == "timm":
        _check_timm(name)
    elif library == "torchvision":
        names = torchvision_names()
        if names and name not in names:
            raise ValueError(f"torchvision has no model {name[:80]!r}{nearest(name[:80], sorted(names))}")
    else:
        _check_transformers(name)


def check_own(source: str) -> None:
    """Refuse the user's own code where its file is missing, is no Python, or has not that name.

    Raises:
        ValueError: what is wrong, with the nearest name.
    """
    if source.endswith(".toml"):
        named = read_own_file(Path(source)).source
        return check_own(named) if source_parts(named) else None
    where, name = source_parts(source) or ("", "")
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise ValueError(f"no such file: {where}")
        return _check_defined(Path(where), where, name.partition(".")[0])
    top = where.partition(".")[0]
    path_of = [*sys.path, str(Path.cwd())]
    if top not in sys.modules and PathFinder.find_spec(top, path_of) is None and find_spec(top) is None:
        raise ValueError(f"cannot import {where}: ModuleNotFoundError: No module named {top!r}")


def _check_timm(name: str) -> None:
    names = timm_names()
    architecture, _, tag = name.partition(".")
    if not names:
        return
    if architecture not in names:
        raise ValueError(f"timm has no model {name[:80]!r}{nearest(architecture[:80], sorted(names))}")
    tags = sorted(set(re.findall(rf"['\"]{re.escape(architecture)}\.([\w.]+)['\"]", _timm_text())))
    # Some families make their tags when they are imported: those are told later.
    if tag and tags and tag not in tags:
        raise ValueError(f"timm has no weights {name[:80]!r}{nearest(tag[:80], tags)}")


def _check_transformers(name: str) -> None:
    if find_spec("transformers") is None:
        raise ValueError("hf: models need transformers: pip install 'segmeter[hf]'")
    if re.search(r"[/\\.]", name) or Path(name).is_dir():
        from segmeter.harness.models import config_files, read_object

        read_object(config_files(name)["config.json"], f"hf:{name}: config.json")
        return
    families, classes = _transformers_names()
    if not families or name in families or _defines("transformers", name):
        return
    raise ValueError(
        f"unknown model hf:{name[:80]}: no folder, no class of transformers and, without a slash, no "
        f"repository{nearest(name[:80], sorted(classes) + sorted(families))}"
    )


@cache
def _transformers_names() -> tuple[frozenset[str], frozenset[str]]:
    """Model types, and classes that segment, detect or see depth, as the automatic classes list them."""
    text = "".join(map(_text, _files("transformers", "models/auto/*.py")))
    listed = re.findall(r"\(\s*\"([\w-]+)\",\s*\"(\w+)\"\s*,?\)", text)
    seeing = re.compile(r"(Segmentation|Detection|DepthEstimation)$")
    classes = frozenset(kind for _, kind in listed if seeing.search(kind))
    return frozenset(family for family, _ in listed), classes


def check_found(word: str, systems: Iterable[str]) -> None:
    """Refuse a word that no name of a model has in it, of segmeter's systems or of installed libraries.

    Raises:
        ValueError: with the nearest name.
    """
    families, classes = _transformers_names()
    names = [*systems, *sorted({*classes, *timm_names(), *torchvision_names(), *families})]
    asked = plainly(word)
    if not asked or not any(asked in plainly(name) for name in names):
        close = nearest(asked, filter(None, map(plainly, names)))
        raise ValueError(f"no model has {word!r} in its name{close}")


def plainly(name: str) -> str:
    """A name without case and signs.

    >>> plainly("RF-DETR")
    'rfdetr'
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _defines(library: str, name: str) -> bool:
    sign = f"class {name}(".encode()
    return any(sign in path.read_bytes() for path in _files(library, "models/*/modeling_*.py"))


def _check_defined(path: Path, where: str, name: str) -> None:
    """Whether a file is Python, and gives a name a meaning at its top level."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        # In Python's own words, as when it is imported.
        raise ValueError(f"cannot import {where}: SyntaxError: {error}") from None
    except ValueError as error:
        raise ValueError(f"cannot import {where}: {error}") from None
    names = set(_bound(tree))
    is_open = "*" in names or any(
        isinstance(node, ast.Name) and node.id in ANY_NAME for node in ast.walk(tree)
    )
    if name not in names and not is_open and "__getattr__" not in names:
        public = sorted(each for each in names if not each.startswith("_"))
        made = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        buildable = [each for each in public if each in made]
        raise ValueError(f"{where} has no {name!r}{nearest(name, buildable or public or ['nothing'])}")


def _bound(tree: ast.AST) -> Iterator[str]:
    """Names that a module's code could bind, wherever it does; "*" where it imports all of another's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((each.asname or each.name).partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name


@cache
def _timm_text() -> str:
    return "".join(map(_text, _files("timm", "models/*.py")))


def _files(package: str, pattern: str) -> list[Path]:
    """Files of an installed package, which is not imported."""
    found = find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    return sorted(path for folder in folders for path in Path(folder).glob(pattern))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")

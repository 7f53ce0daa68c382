"""What is plainly wrong in an option is said before torch is loaded, the same in all commands.

An option's name means one thing everywhere, so one look at the options that were given serves every command.
What is not plain here (a model of the user's own, a value that only its encoder can judge) is told later.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segmeter.commands.console import user_input
from segmeter.commands.known import check_model, known
from segmeter.model_text import ModelText, is_source
from segmeter.words import nearest, unknown_backbone

DEVICES = ("cpu", "cuda")
# Devices that some commands take beside these.
OTHER_DEVICES = ("mps", "xpu")
SIZE_OPTIONS = ("--padded-size", "--image-size", "--dataset", "--annotations")
# Files and folders that are to be read, and what is said where there is none.
MISSING = {
    "images": "no such photo or folder",
    "weights": "no such checkpoint",
    "source": "no such checkpoint",
    "budgets": "no such budget file",
}
# Backbones that one system alone has: whether it is that one is told later.
OWN_BACKBONES = re.compile(r"(vit|mit)-\w+")


def told_early(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which first looks at what it was given."""

    @wraps(callback)
    def run(**given: Any) -> Any:
        with user_input():
            check_early(given)
        return callback(**given)

    return run


def check_early(given: Mapping[str, Any]) -> None:
    """Refuse options that are plainly wrong.

    Args:
        given: options and arguments by name, as they were read; None where they were left out.

    Raises:
        ValueError: what is wrong, what is expected, and the nearest choice.
    """
    # With records, names are those of the records.
    for text in () if given.get("from_") else _texts(given, "model", "models", "encoder"):
        check_model(text)
        _check_file(text)
        check_backbone_name(_backbone_of(text))
    for name in _texts(given, "backbone"):
        check_backbone_name(name)
    _check_sizes(given)
    _check_places(given)
    device = given.get("device")
    kind = str(device).partition(":")[0]
    if device is not None and kind not in (*DEVICES, *OTHER_DEVICES):
        raise ValueError(f"unknown device {device!r}{nearest(kind, DEVICES)}")
    if given.get("threads") is not None and given["threads"] < 1:
        raise ValueError(f"threads must be at least 1, got {given['threads']}")
    if given.get("seconds") is not None and given["seconds"] < 0:
        raise ValueError(f"seconds must not be negative, got {given['seconds']}")


def check_backbone_name(name: str | None) -> None:
    """Refuse a backbone that is neither one of ours nor a timm model.

    Raises:
        ValueError: with the nearest names.
    """
    if not name or name == "all" or name in known()["backbones"] or OWN_BACKBONES.fullmatch(name):
        return
    # A part of the user's own, a library's model, or a model with a tag: whoever reads those answers.
    if is_source(name) or not re.fullmatch(r"[\w-]+", name):
        return
    if name not in timm_names():
        raise ValueError(unknown_backbone(name, known()["backbones"], timm_names()))


@cache
def timm_names() -> list[str]:
    """The names of timm's models, read from its files: to import timm takes two seconds."""
    found = find_spec("timm")
    folders = list(found.submodule_search_locations or ()) if found else []
    text = "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for folder in folders
        for path in sorted(Path(folder, "models").glob("*.py"))
    )
    return sorted(set(re.findall(r"^@register_model\s*\ndef (\w+)\(", text, flags=re.MULTILINE)))


def _texts(given: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        value = given.get(name)
        yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if each)


def _check_file(text: str) -> None:
    """A model in a file: whether the file is there."""
    path = re.match(r"[^:@]+\.(py|toml)(?=[:@]|$)", text)
    if path and not Path(path[0]).is_file():
        raise ValueError(f"no such file: {path[0]}")


def _backbone_of(text: str) -> str | None:
    if text.strip() in known()["presets"] or is_source(text):
        return None
    try:
        written = ModelText.parse(text, known()["systems"])
    except ValueError:
        return None
    return written.backbone if written.name in known()["systems"] else None


def _check_sizes(given: Mapping[str, Any]) -> None:
    from segmeter.harness.inputs import dataset_sizes, parse_size

    for name in ("padded_size", "image_size", "original_size"):
        for text in _texts(given, name):
            parse_size(text, name.replace("_", " "))
    if "image_size" not in given:
        # To these commands a data set is more than its images' sizes.
        return
    ways = [way for way in SIZE_OPTIONS if given.get(way[2:].replace("-", "_"))]
    if len(ways) > 1:
        raise ValueError(f"give one of {', '.join(SIZE_OPTIONS)}; got {' and '.join(ways)}")
    if given.get("dataset"):
        dataset_sizes(given["dataset"])


def _check_places(given: Mapping[str, Any]) -> None:
    """Files and folders that are to be read."""
    for name, message in MISSING.items():
        value = given.get(name)
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, Path) and not path.exists():
                raise ValueError(f"{message}: {path}")

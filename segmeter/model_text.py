"""How a model is written: ``NAME[@BACKBONE][:OPTION=VALUE]...``. The one place that takes such a text apart.

NAME is an encoder's or a system's, the source of the user's own code: ``mine.py:MyEncoder``,
``package.module:attribute``, ``mine.toml``, or a model of an installed library: ``hf:ORG/NAME@REVISION``,
``timm:NAME``, ``torchvision:NAME``. Nothing is looked up or imported here, but for what a TOML file says:
:func:`read_own_file`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segmeter.files import read_toml
from segmeter.plain import shown
from segmeter.words import nearest

# An option of this prefix names a component: ``components.layers.*.ffn=ffn``.
COMPONENTS = "components."
# An option of this prefix gives an input's shape: ``input.input_ids=1x16,int64``.
INPUT = "input."
# Libraries whose models are named as LIBRARY:NAME.
LIBRARIES = ("hf", "timm", "torchvision")
# What a TOML file of an own model says.
TOML_KEYS = ("model", "options", "components")
# A plain name in a library's registry or on the Hub: no folder, no file, no option.
_LIBRARY_NAME = re.compile(r"(?:timm|torchvision):[\w.]+|hf:[\w-]+/[\w.-]+")
_SOURCE = re.compile(r"(?P<where>.+?):(?P<name>[A-Za-z_][A-Za-z0-9_.]*)")


@dataclass(frozen=True)
class ModelText:
    """The parts of a written model; ``str`` puts them together again.

    Attributes:
        name: of the encoder or system, or the source of the user's own code.
        backbone: "" where none is written.
        options: (name, value as written), in order.
    """

    name: str
    backbone: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, names: Collection[str] = ()) -> "ModelText":
        """Take a text apart.

        Args:
            text: as a user or a record writes a model.
            names: known names; one of them is never the file of a source such as ``m2f:layers``.

        Raises:
            ValueError: an option without a value, or one that is given twice.

        >>> ModelText.parse("mine.py:Net@r50:width=16")
        ModelText(name='mine.py:Net', backbone='r50', options=(('width', '16'),))
        >>> ModelText.parse("segmenter:reduction=mine.py:Mine:r=8").options
        (('reduction', 'mine.py:Mine'), ('r', '8'))
        """
        head, *settings = text.strip().split(":")
        if head in LIBRARIES and settings and "=" not in settings[0]:
            # An "@" in it is a revision's, or a folder's.
            return cls(f"{head}:{settings[0].strip()}", "", _options(text, settings[1:]))
        first = settings[0].partition("@")[0] if settings else ""
        if "@" not in head and head not in names and is_source(f"{head}:{first}"):
            # A source of the user's own has the colon in its name.
            head = f"{head}:{settings.pop(0)}"
        name, _, backbone = head.partition("@")
        return cls(name.strip(), backbone.strip(), _options(text, settings))

    @classmethod
    def named(cls, text: str) -> "ModelText":
        """As :meth:`parse`, for a text out of a record, where one that cannot be taken apart is all name."""
        try:
            return cls.parse(text)
        except ValueError:
            return cls(text)

    def __str__(self) -> str:
        at = f"@{self.backbone}" if self.backbone else ""
        return self.name + at + "".join(f":{name}={value}" for name, value in self.options)

    def on(self, backbone: str) -> "ModelText":
        """The same on a backbone, unless it names its own.

        >>> str(ModelText.parse("pro-scale:stages=1,1,1").on("r50"))
        'pro-scale@r50:stages=1,1,1'
        """
        return self if self.backbone else replace(self, backbone=backbone)

    def option(self, name: str) -> str | None:
        """An option's value as written; None where it is not."""
        return dict(self.options).get(name)


def _options(text: str, settings: Iterable[str]) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        last = next(reversed(options), "")
        if not equals and last and is_source(f"{options[last]}:{setting.strip()}"):
            # A value that is a source has the colon in it too: reduction=mine.py:Mine.
            options[last] += f":{setting.strip()}"
            continue
        option = option.strip().replace("-", "_")
        if not equals or not option:
            raise ValueError(f"expected OPTION=VALUE after a colon in {text!r}, got {setting!r}")
        if option in options:
            raise ValueError(f"{option} is given twice in {text!r}")
        options[option] = value.strip()
    return tuple(options.items())


def library_name(text: str) -> tuple[str, str] | None:
    """The library and the name in it of ``LIBRARY:NAME``; None for any other text.

    >>> library_name("hf:facebook/detr-resnet-50"), library_name("m2f")
    (('hf', 'facebook/detr-resnet-50'), None)
    """
    library, colon, name = text.partition(":")
    return (library, name) if colon and name and library in LIBRARIES else None


def is_library_name(text: str) -> bool:
    """Whether a text out of a file names a model of an installed library and nothing else.

    >>> is_library_name("timm:resnet18"), is_library_name("hf:../x"), is_library_name("mine.py:Net")
    (True, False, False)
    """
    return _LIBRARY_NAME.fullmatch(text) is not None


def is_source(text: str) -> bool:
    """Whether the text is written as ``module:attribute`` or ``file.py:Name``.

    >>> is_source("mine.py:MyEncoder"), is_source("pro-scale")
    (True, False)
    """
    return _SOURCE.fullmatch(text) is not None


def source_parts(text: str) -> tuple[str, str] | None:
    """File or module, and name in it; None where the text is no source.

    >>> source_parts("mine.py:MyEncoder")
    ('mine.py', 'MyEncoder')
    """
    found = _SOURCE.fullmatch(text)
    return (found["where"], found["name"]) if found else None


def relative_source(text: str, folder: Path) -> str:
    """A model as a file in ``folder`` writes it, as it is written from here; an absolute path stays one.

    >>> relative_source("mine.py:Net@r50:width=3", Path("models"))
    'models/mine.py:Net@r50:width=3'
    >>> relative_source("m2f@r50", Path("models"))
    'm2f@r50'
    """
    library = library_name(text)
    if library is not None:
        name, colon, options = library[1].partition(":")
        is_folder = library[0] == "hf" and name.startswith(".")
        return f"hf:{folder / name}{colon}{options}" if is_folder else text
    file = text.partition(":")[0].partition("@")[0]
    return f"{folder / file}{text[len(file) :]}" if file.endswith((".py", ".toml")) else text


@dataclass(frozen=True)
class OwnFile:
    """What the TOML file of an own model says.

    Attributes:
        source: the model, as it is written from here.
        options: its factory's arguments.
        components: module-path pattern -> component.
    """

    source: str
    options: dict[str, Any]
    components: dict[str, str]


def read_own_file(path: Path) -> OwnFile:
    """Read the TOML file of an own model; what it names is not looked for.

    Raises:
        ValueError: no such file, no TOML, an unknown key, no model, or tables that are none.
    """
    if not path.exists():
        raise ValueError(f"no such file: {path}")
    content = read_toml(path)
    for key in content:
        if key not in TOML_KEYS:
            raise ValueError(f"{path}: unknown key {key!r}{nearest(key, TOML_KEYS)}")
    source = content.get("model")
    if not isinstance(source, str) or source.endswith(".toml"):
        raise ValueError(f'{path} must say which model it means, e.g. model = "mine.py:MyEncoder"')
    options, components = content.get("options", {}), content.get("components", {})
    for name, table in (("options", options), ("components", components)):
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name} must be a table, got {shown(table)}")
    if not all(isinstance(component, str) for component in components.values()):
        raise ValueError(f"{path}: components must be names, got {shown(components)}")
    return OwnFile(relative_source(source, path.parent), options, components)

"""What to measure: a model that exists, with every option checked, and how a user writes it down.

A model is written ``NAME[@BACKBONE][:OPTION=VALUE]...`` (:mod:`model_text`), for instance ``pro-scale``,
``m2f@r50`` or ``pro-scale@swin-t:stages=1,1,3:pixel_embedding=conv``. NAME may be one of your own
(:mod:`harness.models.own`). An option ``components.PATTERN=NAME`` names a component of one's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segmeter.encoders.backbones.table import BACKBONES, check_backbone
from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.rules import is_integer, write_value
from segmeter.encoders.systems.table import SYSTEMS, find_system
from segmeter.harness.models.libraries.names import library_system
from segmeter.harness.models.own import own_system
from segmeter.harness.models.own_reducers import own_reducer
from segmeter.model_text import ModelText, is_source, library_name
from segmeter.words import nearest

MAX_CLASSES = 100_000
MAX_QUERIES = 100_000
# Letters of a name out of a file that a message repeats.
MAX_SHOWN = 80


@dataclass(frozen=True)
class ModelSpec:
    """One full model. Build it with :func:`model_spec`, which checks every part.

    Attributes:
        system: what it is one of.
        backbone: a name that :func:`encoders.backbones.table.build_backbone` knows; "" where there is none.
        options: the system's options, complete, sorted by name.
        num_classes: classes of the data set, without "no object"; 0 for a whole model of the user's own.
        num_queries: queries of the decoder; 0 where there are none.
    """

    system: System
    backbone: str
    options: tuple[tuple[str, Any], ...]
    num_classes: int
    num_queries: int

    @property
    def encoder(self) -> str:
        """The system's name: for the four systems around an encoder, the encoder's."""
        return self.system.name

    @property
    def title(self) -> str:
        """How a paper would name it, e.g. "PRO-SCALE (3,3,3), Swin-T"."""
        if not self.backbone:
            return self.encoder_title
        kind = BACKBONES.get(self.backbone)
        return f"{self.encoder_title}, {kind.title if kind else self.backbone}"

    @property
    def encoder_title(self) -> str:
        """The system's title with the options that are not its defaults."""
        options = dict(self.options)
        if self.system.titled is not None:
            return self.system.titled(options)
        return " ".join([self.system.title, *self.system.settings.title(options)])

    @property
    def text(self) -> str:
        """The shortest way to write it down; :func:`parse_model` reads it back."""
        defaults = self.system.settings.defaults_with(dict(self.options))
        options = tuple(
            (name, write_value(value))
            for name, value in self.options
            if name not in defaults or value != defaults[name]
        )
        return str(ModelText(self.encoder, self.backbone, options))

    @property
    def stages(self) -> Sequence[Stage]:
        """Its stages, in the order in which they run."""
        choice = Choice(self.backbone, dict(self.options), self.num_classes, self.num_queries)
        return self.system.stages(choice)

    def with_heads(self, num_classes: int, num_queries: int) -> "ModelSpec":
        """The same for another number of classes and queries."""
        return replace(self, num_classes=num_classes, num_queries=num_queries)


def model_spec(
    name: str,
    /,
    backbone: str | None = None,
    *,
    num_classes: int = 133,
    num_queries: int | None = None,
    own: bool = False,
    **options: Any,
) -> ModelSpec:
    """Check and complete a model.

    Args:
        name: of an encoder or system.
        backbone: backbone name; None for the system's own choice.
        num_classes: classes without "no object".
        num_queries: defaults to the papers' choice, e.g. 200 for M2F on swin-l, otherwise 100.
        own: whether the name may be of code of the user's own, which is then imported and run. Only for what
            the user typed, or wrote into their own TOML file: never for a name out of a checkpoint, a record
            or any other data.
        options: the system's options; the rest take their defaults.

    Raises:
        ValueError: an unknown name, option or value; one line with the nearest valid choice.
    """
    return _checked(named_system(name, own), backbone, num_classes, num_queries, options)


def _with_own_code(system: System, given: Mapping[str, Any], own: bool) -> System:
    """The system with the user's own part in it, where an option names one and code may be named."""
    value = given.get(system.code_option)
    if not own or system.with_code is None or not isinstance(value, str) or not is_source(value):
        return system
    return system.with_code(system, own_reducer(value))


def _checked(
    system: System,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    options: Mapping[str, Any],
) -> ModelSpec:
    settings = tuple(sorted(system.settings.complete(options).items()))
    if system.backbones == ():
        if backbone:
            raise ValueError(_takes_no_backbone(system, backbone))
        if system.is_own_whole:
            return ModelSpec(system, "", settings, 0, 0)
    else:
        backbone = backbone or system.default_backbone
        if system.backbones is None:
            check_backbone(backbone)
        elif backbone not in system.backbones:
            raise ValueError(
                f"{system.name} has no backbone {backbone!r}{nearest(backbone, system.backbones)}"
            )
    default = system.default_queries(backbone or "")
    queries = default if num_queries is None or not default else num_queries
    for what, value, fewest, most in (
        ("num_classes", num_classes, 1, MAX_CLASSES),
        ("num_queries", queries, min(1, default), MAX_QUERIES),
    ):
        if not is_integer(value) or not fewest <= value <= most:
            raise ValueError(f"{what} must be from {fewest} to {most}, got {value}")
    system.fits(Choice(backbone or "", dict(settings), num_classes, queries))
    return ModelSpec(system, backbone or "", settings, num_classes, queries)


def named_system(name: str, own: bool = False) -> System:
    """The system of a name; ``own`` is as for :func:`model_spec`.

    Raises:
        ValueError: no such system, or code where none may be named.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if own:
        return library_system(name) if library_name(name) else own_system(name)
    if is_source(name) or library_name(name) or name.endswith(".toml"):
        raise ValueError(
            f"{name[:MAX_SHOWN]!r} is code, and only segmeter's encoders are taken from a file: "
            f"{', '.join(SYSTEMS)}"
        )
    return find_system(name[:MAX_SHOWN])


def parse_model(
    text: str,
    *,
    backbone: str | None = None,
    num_classes: int = 133,
    num_queries: int | None = None,
    options: Mapping[str, Any] | None = None,
    own: bool = False,
) -> ModelSpec:
    """Read ``NAME[@BACKBONE][:OPTION=VALUE]...``.

    Args:
        text: the model.
        backbone: the one to take where the text names none; a whole model of the user's own has none.
        num_classes, num_queries: see :func:`model_spec`.
        options: more options, as values, or as text to be read.
        own: as for :func:`model_spec`: without it, no code of anybody's is imported, whatever the text is.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    written = ModelText.parse(text, SYSTEMS)
    twice = sorted({name for name, _ in written.options} & set(options or {}))
    if twice:
        raise ValueError(f"{twice[0]} is given twice: in {text!r} and as an option")
    system = named_system(written.name, own)
    given: dict[str, Any] = dict([*written.options, *(options or {}).items()])
    system = _with_own_code(system, given, own)
    values = {
        name: system.settings.read(name, value) if isinstance(value, str) else value
        for name, value in given.items()
    }
    if system.is_own_whole and written.backbone:
        raise ValueError(_takes_no_backbone(system, written.backbone))
    if not system.is_own:
        # The heads' sizes may stand in the text too; an option of the user's own may have these names.
        num_classes = values.pop("num_classes", num_classes)
        num_queries = values.pop("num_queries", num_queries)
    return _checked(
        system,
        written.backbone or (None if system.backbones == () else backbone),
        num_classes,
        num_queries,
        values,
    )


def model_from_parts(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    options: Mapping[str, Any],
) -> ModelSpec:
    """A model from what the user typed: its written form, single settings, or both where they do not clash.

    Raises:
        ValueError: no encoder at all, or the same thing said twice.
    """
    written = ModelText.parse(model or "", SYSTEMS)
    for what, first, second in (("encoder", written.name, encoder), ("backbone", written.backbone, backbone)):
        if first and second and first != second:
            raise ValueError(f"two values for the {what}: {first!r} and {second!r}")
    if not written.name and not encoder:
        raise ValueError(f"no encoder given; choose from {', '.join(SYSTEMS)}")
    text = ModelText.parse(encoder or "", SYSTEMS) if not written.name else written
    named = named_system(text.name, own=True)
    if named.is_own_whole and backbone:
        raise ValueError(_takes_no_backbone(named, backbone))
    return parse_model(
        str(text),
        backbone=backbone,
        num_classes=num_classes,
        num_queries=num_queries,
        options=options,
        own=True,
    )


def _takes_no_backbone(system: System, backbone: str) -> str:
    if not system.is_own:
        return f"{system.name} has no backbone to choose; got {backbone!r}"
    return (
        f"{system.name} is a whole model, which has no backbone of ours; got {backbone!r} "
        "(an encoder takes the parameter 'in_channels')"
    )

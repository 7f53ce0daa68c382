"""What to measure: a model, and how a user writes it down.

A model is written ``ENCODER[@BACKBONE][:OPTION=VALUE]...``, for instance ``pro-scale``,
``m2f@r50`` or ``pro-scale@swin-t:stages=1,1,3:pixel_embedding=conv``. ENCODER may be one of your own
(``mine.py:MyEncoder``, ``package.module:attribute``, ``mine.toml``); a whole model of your own is written
``mine.py:MyModel[:OPTION=VALUE]...``. An option ``components.PATTERN=NAME`` names a component of one's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segmeter.encoders.backbones.table import BACKBONES, check_backbone, default_num_queries
from segmeter.encoders.interface import nearest
from segmeter.encoders.table import ENCODERS, check_options, encoder_options
from segmeter.harness.models.own import (
    COMPONENTS,
    OwnModel,
    add_encoder,
    check_own_options,
    is_source,
    load_own,
    own_title,
    split_components,
)

DEFAULT_BACKBONE = "swin-t"
MAX_CLASSES = 100_000
MAX_QUERIES = 100_000
# Letters of a name out of a file that a message repeats.
MAX_SHOWN = 80
# What data may name; the table itself grows by the encoders that the user names.
BUILT_IN = tuple(ENCODERS)


@dataclass(frozen=True)
class ModelSpec:
    """One full model. Build it with :func:`model_spec`, which checks every part.

    Attributes:
        encoder: a key of :data:`encoders.ENCODERS`.
        backbone: a name that :func:`encoders.backbones.table.build_backbone` knows.
        options: the encoder's options, complete, sorted by name.
        num_classes: classes of the data set, without "no object".
        num_queries: mask queries of the decoder.
    """

    encoder: str
    backbone: str
    options: tuple[tuple[str, Any], ...]
    num_classes: int
    num_queries: int

    @property
    def title(self) -> str:
        """How a paper would name it, e.g. "PRO-SCALE (3,3,3), Swin-T"."""
        kind = BACKBONES.get(self.backbone)
        return f"{self.encoder_title}, {kind.title if kind else self.backbone}"

    @property
    def encoder_title(self) -> str:
        """The encoder's name with the options that are not its defaults."""
        kind, defaults = ENCODERS[self.encoder].title, encoder_options(self.encoder)
        parts = []
        for name, value in self.options:
            if name == "stages":
                kind = f"{kind} ({','.join(str(p) for p in value)})"
            elif name in defaults and value != defaults[name]:
                parts.append(_option_title(name, value))
        return " ".join([kind, *parts])

    @property
    def text(self) -> str:
        """The shortest way to write it down; :func:`parse_model` reads it back."""
        defaults = encoder_options(self.encoder)
        options = "".join(
            f":{name}={_to_text(value)}"
            for name, value in self.options
            if name not in defaults or value != defaults[name]
        )
        return f"{self.encoder}@{self.backbone}{options}"


@dataclass(frozen=True)
class WholeModelSpec(ModelSpec):
    """A whole model of the user's own: an image goes in, anything comes out.

    ``encoder`` holds its source (``mine.py:MyModel``); it has no backbone, classes or queries of ours.
    """

    @property
    def title(self) -> str:
        """Its class or factory, with the options given."""
        options = [
            f"{name}={_to_text(value)}" for name, value in self.options if not name.startswith(COMPONENTS)
        ]
        return " ".join([own_title(self.encoder), *options])

    @property
    def encoder_title(self) -> str:
        """The same: the model has no encoder of its own to name."""
        return self.title

    @property
    def text(self) -> str:
        """How it is written; :func:`parse_model` reads it back."""
        return self.encoder + "".join(f":{name}={_to_text(value)}" for name, value in self.options)

    def load(self) -> OwnModel:
        """Import it; see :func:`harness.models.own.load_own`."""
        return load_own(self.encoder)


def whole_model_spec(own: OwnModel, options: dict[str, Any]) -> WholeModelSpec:
    """Check the options of a whole model.

    Raises:
        ValueError: an option that its factory does not take.
    """
    check_own_options(own, split_components(options)[0])
    settings = tuple((name, _frozen(value)) for name, value in sorted(options.items()))
    return WholeModelSpec(own.source, "", settings, 0, 0)


def model_spec(
    encoder: str,
    backbone: str = DEFAULT_BACKBONE,
    *,
    num_classes: int = 133,
    num_queries: int | None = None,
    own: bool = False,
    **options: Any,
) -> ModelSpec:
    """Check and complete a model.

    Args:
        encoder: encoder name.
        backbone: backbone name.
        num_classes: classes without "no object".
        num_queries: defaults to the papers' choice: 200 for swin-l, otherwise 100.
        own: whether the name may be of code of the user's own, which is then imported and run. Only for what
            the user typed, or wrote into their own TOML file: never for a name out of a checkpoint, a record
            or any other data.
        options: encoder options; the rest take their defaults.

    Raises:
        ValueError: an unknown name, option or value; one line with the nearest valid choice.
    """
    if not own and encoder not in BUILT_IN:
        if is_source(encoder) or encoder.endswith(".toml"):
            raise ValueError(
                f"{encoder[:MAX_SHOWN]!r} is code, and only segmeter's encoders are taken from a file: "
                f"{', '.join(BUILT_IN)}"
            )
        raise ValueError(f"unknown encoder {encoder[:MAX_SHOWN]!r}{nearest(encoder, BUILT_IN)}")
    if encoder not in ENCODERS:
        found = load_own(encoder)
        if not found.is_encoder:
            return whole_model_spec(found, options)
        add_encoder(encoder)
    checked = {**encoder_options(encoder), **check_options(encoder, options)}
    check_backbone(backbone)
    if num_queries is None:
        num_queries = default_num_queries(backbone)
    for name, number, limit in (
        ("num_classes", num_classes, MAX_CLASSES),
        ("num_queries", num_queries, MAX_QUERIES),
    ):
        if not 1 <= number <= limit:
            raise ValueError(f"{name} must be from 1 to {limit}, got {number}")
    settings = tuple((name, _frozen(value)) for name, value in sorted(checked.items()))
    return ModelSpec(encoder, backbone, settings, num_classes, num_queries)


def parse_model(
    text: str,
    *,
    num_classes: int = 133,
    num_queries: int | None = None,
    options: Mapping[str, Any] | None = None,
    own: bool = False,
) -> ModelSpec:
    """Read ``ENCODER[@BACKBONE][:OPTION=VALUE]...``; ``options`` are more of them, as values.

    ``own`` is as for :func:`model_spec`: without it, no code of anybody's is imported, whatever the text is.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    encoder, backbone, written = _split(text)
    _check_once(text, written, options or {})
    spec = model_spec(
        encoder,
        backbone or DEFAULT_BACKBONE,
        num_classes=num_classes,
        num_queries=num_queries,
        own=own,
        **written,
        **(options or {}),
    )
    _check_backbone_taken(spec, backbone)
    return spec


def model_from_parts(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int,
    num_queries: int | None,
    options: dict[str, Any],
) -> ModelSpec:
    """A model from what the user typed: its written form, single settings, or both where they do not clash.

    Raises:
        ValueError: no encoder at all, or the same thing said twice.
    """
    written_encoder, written_backbone, written = _split(model or "")
    for what, first, second in (
        ("encoder", written_encoder, encoder),
        ("backbone", written_backbone, backbone),
    ):
        if first and second and first != second:
            raise ValueError(f"two values for the {what}: {first!r} and {second!r}")
    _check_once(model or "", written, options)
    chosen = written_encoder or encoder
    if not chosen:
        raise ValueError(f"no encoder given; choose from {', '.join(ENCODERS)}")
    settings = {
        name: read_option(name, value) if isinstance(value, str) else value for name, value in options.items()
    }
    spec = model_spec(
        chosen,
        written_backbone or backbone or DEFAULT_BACKBONE,
        num_classes=num_classes,
        num_queries=num_queries,
        own=True,
        **written,
        **settings,
    )
    _check_backbone_taken(spec, written_backbone or backbone or "")
    return spec


def _check_once(text: str, written: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    twice = sorted(set(written) & set(options))
    if twice:
        raise ValueError(f"{twice[0]} is given twice: in {text!r} and as an option")


def _check_backbone_taken(spec: ModelSpec, backbone: str) -> None:
    if backbone and isinstance(spec, WholeModelSpec):
        raise ValueError(
            f"{spec.encoder} is a whole model, which has no backbone of ours; got {backbone!r} "
            "(an encoder takes the parameter 'in_channels')"
        )


def _split(text: str) -> tuple[str, str, dict[str, Any]]:
    """Encoder, backbone and options of ``ENCODER[@BACKBONE][:OPTION=VALUE]...``."""
    head, *settings = text.strip().split(":")
    source = f"{head}:{settings[0].partition('@')[0]}" if settings else ""
    if "@" not in head and head not in ENCODERS and is_source(source):
        # A source of the user's own has the colon in its name.
        head = f"{head}:{settings.pop(0)}"
    encoder, _, backbone = head.partition("@")
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"expected OPTION=VALUE after a colon in {text!r}, got {setting!r}")
        if name in options:
            raise ValueError(f"{name} is given twice in {text!r}")
        value = value.strip()
        options[name] = value if name.startswith(COMPONENTS) else read_option(name, value)
    return encoder.strip(), backbone.strip(), options


def read_option(name: str, text: str) -> Any:
    """An option's value from its text: a number, true, false, none, a word, or several with commas.

    >>> read_option("width", "16"), read_option("bias", "false"), read_option("depths", "2,6")
    (16, False, (2, 6))
    """
    if name == "stages":
        return parse_stages(text)
    if "," in text:
        return tuple(read_option("", part.strip()) for part in text.strip("()[]").split(",") if part.strip())
    if text.lower() in ("none", "off"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def parse_stages(text: str) -> tuple[int, ...]:
    """Read "3,3,3".

    Raises:
        ValueError: not whole numbers joined by commas.

    >>> parse_stages("1,1,3")
    (1, 1, 3)
    """
    try:
        return tuple(int(part) for part in text.strip("()").split(","))
    except ValueError:
        raise ValueError(f"stages must be three whole numbers such as 3,3,3; got {text!r}") from None


def _option_title(name: str, value: Any) -> str:
    if name == "pixel_embedding":
        return {"lpe": "+ LPE", "conv": "+ 3x3 conv", "lpe-avg": "+ LPE (average)"}[value]
    if name == "recalibration":
        return "without TRC" if value is None else f"TRC {value}"
    return f"{name.replace('_', ' ')} {value}"


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError(f"an option must be a number, a word or a list of them, got the table {value!r}")
    return tuple(_frozen(each) for each in value) if isinstance(value, list | tuple) else value


def _to_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "none" if value is None else str(value)

"""What is plainly wrong with a model as it is written: told from data, before torch is loaded.

Models of the user's own and of libraries are checked as far as their files tell (:mod:`commands.foreign`).
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from segmeter.commands.foreign import check_library, check_own, timm_names
from segmeter.commands.known import known, reducer_settings, settings_of
from segmeter.encoders.reduction.limits import check_exits, check_layers
from segmeter.encoders.reduction.modes import merging_of
from segmeter.encoders.rules import NotAllZero, is_integer
from segmeter.model_text import COMPONENTS, ModelText, is_source, library_name
from segmeter.words import nearest, unknown_backbone

ENCODERS = Path(__file__).resolve().parents[1] / "encoders"
OWN_GROUP = "segmeter.encoders"
MAX_CLASSES = 100_000
MAX_QUERIES = 100_000
NONE = "none"


def check_parts(
    model: str | None,
    encoder: str | None,
    backbone: str | None,
    num_classes: int | None = None,
    num_queries: int | None = None,
    flags: Mapping[str, str] | None = None,
) -> None:
    """Refuse a model that is given in its written form, in single options, or in both.

    Raises:
        ValueError: what is wrong with it, in one line; the same thing said twice; no encoder at all.
    """
    written = _parsed(_resolved(model or ""))
    for what, first, second in (("encoder", written.name, encoder), ("backbone", written.backbone, backbone)):
        if first and second and first != second:
            raise ValueError(f"two values for the {what}: {first!r} and {second!r}")
    if not written.name and not encoder:
        raise ValueError(f"no encoder given; choose from {', '.join(known()['systems'])}")
    text = _resolved(model or "") if written.name else str(encoder)
    check_model(text, backbone, num_classes, num_queries, flags)


def check_model(
    text: str | None,
    backbone: str | None = None,
    num_classes: int | None = None,
    num_queries: int | None = None,
    flags: Mapping[str, str] | None = None,
) -> None:
    """Refuse a written model whose name, backbone or options are plainly none.

    Args:
        text: the model; None and "" pass.
        backbone: the one that it is to have where the text names none.
        num_classes, num_queries: of its heads, if they are given.
        flags: more options, by name, as they were written.

    Raises:
        ValueError: an unknown preset, system, backbone or option, or a value that is not allowed.
    """
    if not text:
        return
    written = _parsed(_resolved(text))
    name, systems = written.name, known()["systems"]
    if not name:
        raise ValueError(f"no encoder given; choose from {', '.join(systems)}")
    if name not in systems:
        return _check_other(name, backbone)
    twice = sorted({option for option, _ in written.options} & set(flags or {}))
    if twice:
        raise ValueError(f"{twice[0]} is given twice: in {text!r} and as an option")
    given = {**dict(written.options), **(flags or {})}
    if any(is_source(value) for value in given.values()):
        # A part of the user's own has options of its own.
        return
    values = _checked_values(name, given)
    if values is None:
        return
    chosen = _check_backbone_of(name, written.backbone, backbone)
    classes, queries = values.pop("num_classes", num_classes), values.pop("num_queries", num_queries)
    has_queries = systems[name]["has_queries"]
    if classes is not None:
        check_number("num_classes", classes, 1, MAX_CLASSES)
    if queries is not None and has_queries:
        check_number("num_queries", queries, 1, MAX_QUERIES)
    if chosen:
        _check_fit(name, chosen, values)


def check_number(what: str, value: Any, fewest: int, most: int) -> None:
    """Raise ValueError unless it is a whole number in these bounds."""
    if not is_integer(value) or not fewest <= value <= most:
        raise ValueError(f"{what} must be from {fewest} to {most}, got {value}")


def check_stages(text: str, parts: Iterable[str], what: str, further: Iterable[str] = ()) -> None:
    """Refuse a part of a system of ours that no system has.

    Args:
        text: the model.
        parts: names of stages, as they were written.
        what: how one is named in an error line.
        further: other words that are allowed.

    Raises:
        ValueError: with the nearest stage.
    """
    systems = known()["systems"]
    system = systems.get(_parsed(_resolved(text)).name)
    # Some options add a stage: whether this choice of them does is told later.
    every = {stage for each in systems.values() for stage in each["stages"]}
    for part in parts:
        if system and part not in every:
            stages = [*system["stages"], *further]
            raise ValueError(f"{system['title']} has no {what.format(part)}{nearest(part, stages)}")


def check_size(text: str, padded: tuple[int, int]) -> None:
    """Refuse a padded size (H, W) that a system of ours does not take.

    Raises:
        ValueError: with the next size that it takes.
    """
    system = known()["systems"].get(_parsed(_resolved(text)).name)
    divisor = system["size_divisor"] if system else 1
    fitting = tuple(-(-side // divisor) * divisor for side in padded)
    if system and fitting != padded:
        raise ValueError(
            f"{system['title']} takes sizes whose sides are multiples of {divisor}, got "
            f"{padded[0]}x{padded[1]}; did you mean {fitting[0]}x{fitting[1]}?"
        )


def check_backbone_name(name: str | None) -> None:
    """Refuse a backbone that no system has: neither one of ours nor a timm model.

    Raises:
        ValueError: with the nearest names.
    """
    systems = known()["systems"].values()
    if not name or any(name in (system["backbones"] or ()) for system in systems):
        return
    if library_name(name):
        raise ValueError(
            f"--backbone takes a backbone of segmeter; {name} is a whole model, given in the encoder's place"
        )
    _check_any_backbone(name)


def _check_any_backbone(name: str) -> None:
    if name in known()["backbones"] or name in timm_names():
        return
    raise ValueError(unknown_backbone(name, known()["backbones"], timm_names()))


def _parsed(text: str) -> ModelText:
    return ModelText.parse(text, known()["systems"])


def _resolved(text: str) -> str:
    """A preset's model for its name."""
    name, presets = text.strip(), known()["presets"]
    if re.fullmatch(r"table\d+(\.\d+)?", name) and name not in presets:
        raise ValueError(f"unknown preset {text!r}{nearest(text, presets)}")
    return str(presets.get(name, text))


def _check_other(name: str, backbone: str | None) -> None:
    """A model that is none of the systems: of a library, of the user's own, or of an installed package."""
    if library_name(name):
        return check_library(name)
    if is_source(name) or name.endswith(".toml"):
        return check_own(name)
    offered = {point.name for point in entry_points(group=OWN_GROUP)}
    if name not in offered and not _may_be_new(name):
        raise ValueError(f"unknown encoder {name!r}{nearest(name, [*known()['systems'], *offered])}")


def _checked_values(name: str, given: Mapping[str, str]) -> dict[str, Any] | None:
    """A system's options, complete, and its heads' sizes; None where an option is newer than the file."""
    settings = settings_of(name)
    heads = {option: given[option] for option in ("num_classes", "num_queries") if option in given}
    rest = {option: text for option, text in given.items() if option not in heads}
    every = {option for system in known()["systems"] for option in settings_of(system).names}
    if any(
        option not in every and not option.startswith(COMPONENTS) and _may_be_new(option) for option in rest
    ):
        return None
    values = settings.complete({option: settings.read(option, text) for option, text in rest.items()})
    kind = values.get(settings.chooser, name)
    if kind in known()["not_all_zero"]:
        NotAllZero(tuple(known()["not_all_zero"][kind]))(values)
    return {**values, **{option: settings.read(option, text) for option, text in heads.items()}}


def _check_backbone_of(name: str, written: str, given: str | None) -> str:
    """The backbone that the system would have; "" where it has none to choose."""
    system = known()["systems"][name]
    takes = system["backbones"]
    if takes == []:
        if written:
            raise ValueError(f"{name} has no backbone to choose; got {written!r}")
        return ""
    chosen = written or given or system["default_backbone"]
    if takes is None:
        _check_any_backbone(chosen)
    elif chosen not in takes:
        raise ValueError(f"{name} has no backbone {chosen!r}{nearest(chosen, takes)}")
    return str(chosen)


def _check_fit(name: str, backbone: str, values: Mapping[str, Any]) -> None:
    """What a reducer of tokens asks of its options together, and of the transformer."""
    if name == "segformer":
        merging_of(values)
    if name != "segmenter":
        return
    reducers = known()["reducers"]
    own = ("reduction", "train_size")
    given = {option: value for option, value in values.items() if option not in own and value is not None}
    chosen = values["reduction"]
    if chosen == NONE:
        if given:
            names = ", ".join(reducers)
            raise ValueError(f"{next(iter(given))} is an option of a reducer; choose reduction from {names}")
        return
    settings, size = reducer_settings(chosen), known()["vits"][backbone]
    published = reducers[chosen]["published"][backbone]
    complete = {**settings.defaults, **published, **settings.check(given)}
    check_exits(size["depth"], complete.get("exits") or ())
    check_layers(complete.get("layers") or (), chosen, f"{size['title']} has layers", size["depth"])


def _may_be_new(word: str) -> bool:
    """Whether an encoder's source names it so: an encoder or option that the file lacks as yet."""
    with suppress(OSError):
        return any(f'name="{word}"' in path.read_text(encoding="utf-8") for path in ENCODERS.rglob("*.py"))
    return False

"""Models of your own: ``package.module:attribute``, ``file.py:Name``, or an entry point's name.

A class or function with a parameter ``in_channels`` builds an *encoder*: it gets the channels of ``res2`` to
``res5``, and its module takes those maps and returns mask features and multi-scale maps, as
:mod:`encoders.interface` says (a plain pair will do). Anything else builds a *whole model*: an image goes in,
and what comes out is not looked at. A file is imported only when the user names it.

A TOML file names one too, with its arguments and its components' names:

.. code-block:: toml

    model = "mine.py:MyEncoder"     # relative to this file
    [options]
    widths = [16, 32]
    [components]
    "layers.*.ffn" = "ffn"          # module-path pattern = component
"""

import copy
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.interface import EncoderKind, EncoderOutput
from segmeter.encoders.options import Option
from segmeter.encoders.rules import write_value
from segmeter.encoders.segmenter.model import masked_system
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.models.blame import OwnModelError, blaming
from segmeter.harness.models.components import outside
from segmeter.harness.models.constants import small_values
from segmeter.harness.models.structure import meta_copy
from segmeter.model_text import COMPONENTS, INPUT, read_own_file, source_parts
from segmeter.words import nearest

ENTRY_POINTS = "segmeter.encoders"
DECODER_CHANNELS = 256


@dataclass(frozen=True)
class OwnModel:
    """What a source names: how to build it, and whether it is an encoder or a whole model.

    ``options`` are the names it takes, with their defaults; None where it takes any name. ``components`` are
    module-path patterns with the names of components, before the module's own. ``identity`` is what the
    source named when it was loaded: one text can name two things, in two folders. ``check`` raises ValueError
    at options that it does not take; None to go by their names. ``describe`` gives the patterns of a built
    model by its options, in place of ``components``.
    """

    source: str
    build: Callable[..., nn.Module]
    is_encoder: bool
    options: Mapping[str, Any] | None
    components: Mapping[str, str] = field(default_factory=dict)
    identity: Hashable = None
    check: Callable[[Mapping[str, Any]], None] | None = None
    describe: Callable[[nn.Module, Mapping[str, Any]], Mapping[str, str]] | None = None


def own_encoders() -> dict[str, str]:
    """Encoders that installed packages offer, each with where it is; none of them is imported."""
    return {
        point.name: f"{point.value}, from {point.dist.name} {point.dist.version}"
        if point.dist
        else point.value
        for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.name)
    }


def load_own(source: str) -> OwnModel:
    """Import what the source names.

    Raises:
        OwnModelError: the module cannot be imported (the cause is kept).
        ValueError: no such file, module, attribute or entry point; it builds no module; or a TOML file with
            an unknown key.
    """
    if source.endswith(".toml"):
        return _from_toml(Path(source))
    parts = source_parts(source)
    if parts is not None:
        where, name = parts
        target = _attribute(_import(where), name, where)
    else:
        points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if source not in points:
            raise ValueError(f"unknown encoder {source!r}{nearest(source, [*SYSTEMS, *points])}")
        with blaming(f"cannot import {points[source].value}"):
            target = points[source].load()
    return replace(_describe(source, target), identity=_identity(target))


def _identity(target: Any) -> Hashable:
    try:
        hash(target)
    except TypeError:
        return id(target)
    return target


def own_title(source: str) -> str:
    """What a table calls it.

    >>> own_title("mine.py:MyEncoder"), own_title("models/wide.toml")
    ('MyEncoder', 'wide')
    """
    return Path(source).stem if source.endswith(".toml") else source.rpartition(":")[2]


def own_system(source: str) -> System:
    """The system of the user's own code: Mask2Former around an encoder, or a whole model.

    Raises:
        ValueError: as :func:`load_own`.
    """
    own = load_own(source)
    return masked_system(_encoder_kind(own)) if own.is_encoder else whole_system(own)


def _encoder_kind(own: OwnModel) -> EncoderKind:
    def build(in_channels: Mapping[str, int], **given: Any) -> nn.Module:
        options, components = split_components(given)
        with blaming(f"{own.source} cannot be built"):
            encoder = own.build(in_channels=dict(in_channels), **options)
        check_module(own.source, encoder)
        name_components(encoder, components, own.components)
        encoder.register_forward_hook(lambda module, inputs, output: check_output(own.source, output))
        return encoder

    return EncoderKind(
        name=own.source,
        title=own_title(own.source),
        summary="your own",
        source=own.source,
        build=build,
        options=tuple(Option(name=name, default=default) for name, default in (own.options or {}).items()),
        takes_any=own.options is None,
        is_own=True,
        identity=own.identity,
    )


def whole_system(own: OwnModel, title: str = "", source: str = "") -> System:
    """One stage, which is the model itself; only the options that are given are its own.

    ``title`` and ``source`` are the system's, where they are not to be made of the own model's source.
    """

    def check(values: Mapping[str, Any]) -> None:
        options = split_components(values)[0]
        if own.check is not None:
            own.check(options)
        else:
            check_own_options(own, options)

    def titled(values: Mapping[str, Any]) -> str:
        options = {k: v for k, v in split_components(values)[0].items() if not k.startswith(INPUT)}
        return " ".join(
            [title or own_title(own.source), *(f"{k}={write_value(v)}" for k, v in options.items())]
        )

    def stages(choice: Choice) -> Sequence[Stage]:
        options = dict(choice.options)
        return (
            Stage(
                name="",
                key=(own.source, own.identity, tuple(sorted(options.items()))),
                build=lambda built: build_whole(own, options),
                call=lambda model, images, sizes: model(images),
            ),
        )

    return System(
        name=own.source,
        title=title or own_title(own.source),
        summary="your own",
        source=source or own.source,
        stages=stages,
        together=check,
        titled=titled,
        backbones=(),
        size_divisor=1,
        takes_any=True,
        identity=own.identity,
        own_part="",
    )


def split_components(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The factory's options, and the components' names among them.

    >>> split_components({"width": 3, "components.layers.*.ffn": "ffn"})
    ({'width': 3}, {'layers.*.ffn': 'ffn'})
    """
    plain = {name: value for name, value in options.items() if not name.startswith(COMPONENTS)}
    named = {name.removeprefix(COMPONENTS): str(options[name]) for name in options if name not in plain}
    return plain, named


def name_components(
    module: nn.Module, patterns: Mapping[str, str], others: Mapping[str, str] | None = None
) -> None:
    """Let a module describe its components by these patterns, before those that it has itself.

    ``others`` come after the patterns, and hold for nothing that lies under one of them.
    """
    described = {**patterns, **outside(patterns, others or {})}
    if described:
        describe: Any = getattr(module, "components", None)
        own = describe() if callable(describe) else {}
        described |= {k: v for k, v in own.items() if k not in described}
        module.components = lambda: described  # type: ignore[assignment]


def check_module(source: str, built: Any) -> None:
    """Raise ValueError unless a module was built."""
    if not isinstance(built, nn.Module):
        raise ValueError(f"{source} must give a torch.nn.Module, got {type(built).__name__}")


def check_output(source: str, output: Any) -> EncoderOutput:
    """What an own encoder returned, as an :class:`EncoderOutput`.

    Raises:
        ValueError: not mask features and three maps from low to high resolution, 256 channels each.
    """
    if isinstance(output, tuple) and len(output) == 2:
        output = EncoderOutput(mask_features=output[0], multi_scale=list(output[1]))
    wanted = f"{source} must return (mask_features, [stride 32, stride 16, stride 8])"
    if not (hasattr(output, "mask_features") and hasattr(output, "multi_scale")):
        raise ValueError(f"{wanted}, got {type(output).__name__}")
    maps = [output.mask_features, *output.multi_scale]
    if not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
        raise ValueError(f"{wanted}, all of shape (B, {DECODER_CHANNELS}, H, W)")
    shapes = [tuple(m.shape) for m in maps]
    if len(shapes) != 4 or any(shape[1] != DECODER_CHANNELS for shape in shapes):
        raise ValueError(f"{wanted} with {DECODER_CHANNELS} channels each, got {shapes}")
    if not shapes[1][2] <= shapes[2][2] <= shapes[3][2]:
        raise ValueError(f"{wanted}, low resolution first, got {shapes[1:]}")
    return output


def build_whole(own: OwnModel, given: Mapping[str, Any]) -> nn.Module:
    """A whole model with random weights on the current default device, ``meta`` included.

    ``given`` are the factory's options and names of components, as :func:`split_components` takes them.

    Raises:
        OwnModelError: the factory raised. ValueError: it gave no module.
    """
    options, components = split_components(given)
    on_meta = torch.get_default_device().type == "meta"
    with blaming(f"{own.source} cannot be built"):
        try:
            # Constructors read values, as in `linspace(...).tolist()`, and a forward pass reads buffers.
            with small_values() if on_meta else nullcontext():
                model = own.build(**options)
        except Exception as error:
            # A library's model has been built by others before: what it says is so on any device, unless it
            # speaks of meta tensors.
            if not on_meta or (own.check is not None and not re.search(r"\bmeta\b", str(error))):
                raise
            with torch.device("cpu"):
                model = own.build(**options)
    check_module(own.source, model)
    described = own.describe(model, options) if own.describe else own.components
    name_components(model, components, described)
    return meta_copy(model) if on_meta else model


def _import(where: str) -> types.ModuleType:
    if not where.endswith(".py"):
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", where):
            raise ValueError(f"expected package.module:attribute or file.py:Name, got {where!r}")
        with blaming(f"cannot import {where}"):
            return importlib.import_module(where)
    path = Path(where).resolve()
    if not path.is_file():
        raise ValueError(f"no such file: {where}")
    name = f"own_{path.stem}_{abs(hash(path)):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"cannot import {where}")
    # Its neighbours can be imported too, but never in place of an installed module.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with blaming(f"cannot import {where}"):
            spec.loader.exec_module(module)
    except OwnModelError:
        del sys.modules[name]
        raise
    return module


def _from_toml(path: Path) -> OwnModel:
    said = read_own_file(path)
    options, components = said.options, said.components
    own = load_own(said.source)
    check_own_options(own, options)
    build, fixed = own.build, dict(options)
    return replace(
        own,
        source=str(path),
        build=lambda **given: build(**{**fixed, **given}),
        options=None if own.options is None else {**own.options, **fixed},
        components=components,
        identity=(own.identity, repr(sorted(options.items())), repr(sorted(components.items()))),
    )


def check_own_options(own: OwnModel, options: Iterable[str]) -> None:
    """Raise ValueError for an option that the factory does not take."""
    for name in options:
        if own.options is not None and name not in own.options:
            if not own.options:
                raise ValueError(f"{own.source} has no options, got {name!r}")
            raise ValueError(f"{own.source} has no option {name!r}{nearest(name, list(own.options))}")


def _attribute(module: types.ModuleType, dotted: str, where: str) -> Any:
    target: Any = module
    for name in dotted.split("."):
        if not hasattr(target, name):
            public = [n for n in vars(target) if not n.startswith("_")]
            buildable = [n for n in public if callable(getattr(target, n))]
            raise ValueError(f"{where} has no {name!r}{nearest(name, buildable or public or ['nothing'])}")
        target = getattr(target, name)
    return target


def _describe(source: str, target: Any) -> OwnModel:
    if isinstance(target, nn.Module):
        return OwnModel(source, lambda: copy.deepcopy(target), False, {})
    if not callable(target):
        raise ValueError(f"{source} must be a torch.nn.Module or a function that builds one, got {target!r}")
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except ValueError:
        return OwnModel(source, target, False, None)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    options = {p.name: None if p.default is p.empty else p.default for p in named if p.name != "in_channels"}
    required = {p.name for p in named if p.default is p.empty}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def build(**given: Any) -> Any:
        # An option that was not given and has no default is missing: Python's own error says it best.
        return target(**{k: v for k, v in given.items() if not (v is None and k in required)})

    return OwnModel(source, build, "in_channels" in required, None if takes_any else options)

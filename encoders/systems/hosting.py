"""Encoders inside other systems than Mask2Former: the option ``encoder``, what comes with it, its stage.

``encoder=own`` is the system's own; any other value is one of :data:`encoders.table.ENCODERS`, which then has
the levels and the FFN width of its host.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from segmeter.encoders.backbones.table import Backbone, build_backbone, spell_out_norms
from segmeter.encoders.chain import Choice, Stage
from segmeter.encoders.interface import EncoderKind, Host
from segmeter.encoders.options import Option
from segmeter.encoders.rules import OneOf
from segmeter.encoders.table import ENCODERS

OWN = "own"
CHOOSER = "encoder"
# What an encoder's module is built from: channels of the backbone's levels, the options.
BuildOwn = Callable[[Mapping[str, int], Mapping[str, Any]], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How a system takes encoders.

    Attributes:
        title: the system's, as a paper writes it.
        host: what it asks of an encoder.
        build_own: builds it.
        own_options: of its own encoder.
        own_levels: levels of its own encoder's maps, from low to high resolution; the host's by default.
    """

    title: str
    host: Host
    build_own: BuildOwn
    own_options: tuple[Option, ...] = ()
    own_levels: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None

    @property
    def kinds(self) -> dict[str, EncoderKind]:
        """The encoders that it takes besides its own."""
        return {name: kind for name, kind in ENCODERS.items() if kind.hosted is not None}

    @property
    def option(self) -> Option:
        """Which encoder."""
        own = {OWN: "the system's own encoder"}
        choices = own | {name: kind.summary for name, kind in self.kinds.items()}
        return Option(
            name=CHOOSER,
            default=OWN,
            check=OneOf(tuple(choices)),
            help="The encoder inside.",
            choices=choices,
            read=str,
            title=lambda name: f"+ {self.kinds[name].title}",
        )

    @property
    def further(self) -> dict[str, tuple[Option, ...]]:
        """Encoder -> its options in here."""
        hosted = {name: kind.hosted(self.host) for name, kind in self.kinds.items() if kind.hosted}
        return {OWN: self.own_options, **hosted}

    def check_together(self, values: Mapping[str, Any]) -> None:
        """The check of the chosen encoder's options against one another."""
        kind = self.kinds.get(values[CHOOSER])
        if kind is not None:
            kind.together(values)

    def levels(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The levels of the encoder's maps, from low to high resolution."""
        kind = self.kinds.get(options[CHOOSER])
        if kind is not None:
            return kind.levels(self.host, options)
        return self.own_levels(options) if self.own_levels else self.host.levels

    def stage(self, choice: Choice, others: tuple[str, ...] = ()) -> Stage:
        """The backbone's maps -> the encoder's output.

        Args:
            choice: of the user.
            others: options of the system that are none of the encoder's.
        """
        name = choice.options[CHOOSER]
        options = {key: value for key, value in choice.options.items() if key not in (CHOOSER, *others)}

        def build(built: Mapping[str, nn.Module]) -> nn.Module:
            backbone: Any = built["backbone"]
            if name == OWN:
                return self.build_own(backbone.channels, options)
            return self.kinds[name].build(backbone.channels, host=self.host, **options)

        return Stage(
            name="encoder",
            key=("encoder in", self.title, self.host, name, choice.backbone, tuple(sorted(options.items()))),
            build=build,
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
        )


def detector_backbone(name: str) -> Stage:
    """Images -> ``res2`` to ``res5``; frozen norms are written out as a product and a sum.

    That is how DINO, Lite-DETR and RT-DETR have them, so that the papers' tool sees no norm there.
    """

    def build(built: Mapping[str, nn.Module]) -> Backbone:
        return spell_out_norms(build_backbone(name))

    return Stage(
        name="backbone",
        key=("backbone with norms spelled out", name),
        build=build,
        call=lambda backbone, images, sizes: backbone(images),
    )

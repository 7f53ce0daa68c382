"""ECO-M2F: Mask2Former whose encoder stops early, as a gate decides for each image.

Source: ECO-M2F, Efficient Transformer Encoders for Mask2Former-style models (arXiv 2404.15244); official code
GYeow/ECO-M2F, ``modeling/pixel_decoder/msdeformattn.py`` and ``gating.py``, whose state-dict names and
outputs the encoder carries. Before the first layer, the gate looks at the mean of the stride-32 tokens and
picks an exit after 2 to 6 layers; what follows is Mask2Former unchanged.

Legend: B batch, K tokens, C channels, G exits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Choice, Stage, System
from segmeter.encoders.m2f import DIM, DeformablePixelDecoder, LayerStack
from segmeter.encoders.naming import Naming
from segmeter.encoders.options import Option
from segmeter.encoders.parts.layers import Levels
from segmeter.encoders.rules import LayersOr
from segmeter.encoders.segmenter.model import backbone_stage, decoder_stage, postprocess_stage

LAYERS = 6
FIRST_EXIT = 2
EXITS = range(FIRST_EXIT, LAYERS + 1)
GATE = "gate"
QUERIES = 100


class Gate(nn.Module):
    """One linear layer on the mean token: a score for each exit."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(DIM, len(EXITS))
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, C) -> scores (B, G)."""
        return self.head(tokens.mean(dim=1))


class ExitingStack(LayerStack):
    """Mask2Former's layers up to an exit.

    Args:
        exit_after: layers that run; :data:`GATE` to let the gate decide for each image.
    """

    def __init__(self, exit_after: int | str) -> None:
        super().__init__(LAYERS)
        self.exit_after = exit_after
        self.gt = Gate()

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """(B, K, C) -> (B, K, C).

        A batch runs as far as its last image does; an image that has left keeps its tokens, so that it gets
        what it would get alone. (The official code takes one exit for a whole batch, and is run on batches
        of one.)
        """
        if isinstance(self.exit_after, int):
            for layer in self.layers[: self.exit_after]:
                tokens = layer(tokens, position, levels)
            return tokens
        exits = self.gt(tokens[:, : levels.tokens_per_level[0]]).argmax(dim=1) + FIRST_EXIT
        last = int(exits.max())
        together = bool((exits == last).all())
        for done, layer in enumerate(self.layers[:last]):
            updated = layer(tokens, position, levels)
            tokens = updated if together else torch.where((exits > done)[:, None, None], updated, tokens)
        return tokens


class EcoPixelDecoder(DeformablePixelDecoder):
    """Mask2Former's pixel decoder around an :class:`ExitingStack`."""

    def components(self) -> dict[str, str]:
        """Component of each submodule (see :mod:`encoders.interface`)."""
        return {"transformer.encoder.gt": "gate", **super().components()}


def eco_stages(choice: Choice) -> Sequence[Stage]:
    """Mask2Former's four stages; the encoder's work depends on the image where the gate decides."""
    exit_after = choice.options["exit"]

    def build(built: Any) -> nn.Module:
        return EcoPixelDecoder(built["backbone"].channels, ExitingStack(exit_after), "conv")

    return (
        backbone_stage(choice.backbone),
        Stage(
            name="encoder",
            key=("eco-m2f encoder", choice.backbone, exit_after),
            build=build,
            call=lambda encoder, features, sizes: encoder(features),
            needs=("backbone",),
            depends_on_image=exit_after == GATE,
        ),
        decoder_stage(choice.num_classes, choice.num_queries),
        postprocess_stage(choice.num_classes),
    )


SYSTEM = System(
    name="eco-m2f",
    title="ECO-M2F",
    summary="Mask2Former whose encoder exits after 2 to 6 layers, by a gate or as asked",
    source="ECO-M2F, arXiv 2404.15244",
    stages=eco_stages,
    options=(
        Option(
            name="exit",
            default=LAYERS,
            check=LayersOr(EXITS[0], EXITS[-1], GATE),
            help="Layers that run, 2 to 6; gate: the gate decides for each image, counted on photos.",
            title=lambda value: "with its gate" if value == GATE else f"exit {value}",
        ),
    ),
    default_backbone="swin-t",
    default_queries=lambda backbone: QUERIES,
    naming=Naming(
        sign=r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.gt\..*",
        base="detectron2",
        rules=(),
        # What was trained with a gate runs with it.
        implied={"exit": GATE},
        classes="decoder.class_embed.weight",
        no_object=True,
        queries="decoder.query_feat.weight",
    ),
)

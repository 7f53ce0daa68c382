"""Mask2Former's whole model around any of the encoders: backbone, encoder, masked decoder, post-processing.

Source: Mask2Former (arXiv 2112.01527); official code facebookresearch/Mask2Former, ``maskformer_model.py``.
Images are RGB on 0..255, normalised, then padded with zeros at the right and bottom to multiples of 32.
"""

from collections.abc import Sequence
from typing import Any

from segmeter.encoders.backbones.table import build_backbone, check_backbone, default_num_queries
from segmeter.encoders.chain import Choice, Model, Stage, System, build_stages
from segmeter.encoders.interface import EncoderKind
from segmeter.encoders.segmenter.decoder import MaskedDecoder
from segmeter.encoders.segmenter.postprocess import SOFTMAX, PostProcess, Scoring
from segmeter.encoders.table import find_encoder


def masked_system(kind: EncoderKind) -> System:
    """The system of an encoder: Mask2Former with that encoder in the place of its pixel decoder."""
    return System(
        name=kind.name,
        title=kind.title,
        summary=kind.summary,
        source=kind.source,
        options=kind.options,
        together=kind.together,
        stages=lambda choice: masked_stages(kind, choice),
        default_queries=default_num_queries,
        takes_any=kind.takes_any,
        identity=kind.identity,
        own_part="encoder" if kind.is_own else None,
    )


def masked_stages(kind: EncoderKind, choice: Choice) -> Sequence[Stage]:
    """Backbone, encoder, decoder, post-processing; their costs are the four parts of the papers' totals."""
    options = dict(choice.options)
    return (
        backbone_stage(choice.backbone),
        encoder_stage(kind, choice.backbone, options),
        decoder_stage(choice.num_classes, choice.num_queries),
        postprocess_stage(choice.num_classes),
    )


def decoder_stage(num_classes: int, num_queries: int) -> Stage:
    """:class:`encoders.interface.EncoderOutput` -> :class:`encoders.segmenter.decoder.DecoderOutput`."""
    return Stage(
        name="decoder",
        key=("masked decoder", num_classes, num_queries),
        build=lambda built: MaskedDecoder(num_classes, num_queries),
        call=lambda decoder, encoded, sizes: decoder(encoded.multi_scale, encoded.mask_features),
    )


def postprocess_stage(num_classes: int, semantic: bool = True, scoring: Scoring = SOFTMAX) -> Stage:
    """:class:`encoders.segmenter.decoder.DecoderOutput` -> masks and semantic map at the original size."""
    return Stage(
        name="postprocess",
        key=("post-processing", num_classes, semantic, scoring),
        build=lambda built: PostProcess(semantic, scoring),
        call=lambda postprocess, decoded, sizes: postprocess(
            decoded.class_logits, decoded.mask_logits, sizes.padded, sizes.image, sizes.original
        ),
        reads_sizes=True,
        full_precision=True,
    )


def backbone_stage(name: str) -> Stage:
    """Images -> ``res2`` to ``res5``."""
    return Stage(
        name="backbone",
        key=("backbone", name),
        build=lambda built: build_backbone(name),
        call=lambda backbone, images, sizes: backbone(images),
    )


def encoder_stage(kind: EncoderKind, backbone: str, options: dict[str, Any]) -> Stage:
    """``res2`` to ``res5`` -> :class:`encoders.interface.EncoderOutput`."""

    def build(built: Any) -> Any:
        return kind.build(built["backbone"].channels, **options)

    return Stage(
        name="encoder",
        key=("encoder", kind.name, kind.identity, backbone, tuple(sorted(options.items()))),
        build=build,
        call=lambda encoder, features, sizes: encoder(features),
        needs=("backbone",),
    )


def build_masked_model(
    encoder: str, backbone: str, num_classes: int, num_queries: int | None = None, **encoder_options: Any
) -> Model:
    """Build a whole model with random weights on the current default device.

    Args:
        encoder: a key of :data:`encoders.ENCODERS`.
        backbone: a name that :func:`encoders.backbones.table.build_backbone` knows.
        num_classes: classes without "no object".
        num_queries: mask queries; None for the papers' choice for this backbone.
        encoder_options: see :func:`encoders.encoder_options`.

    Raises:
        ValueError: an unknown name, option or value, or a count below 1.
    """
    kind = find_encoder(encoder)
    check_backbone(backbone)
    if num_queries is None:
        num_queries = default_num_queries(backbone)
    options = kind.settings.complete(encoder_options)
    for what, count in (("num_classes", num_classes), ("num_queries", num_queries)):
        if count < 1:
            raise ValueError(f"{what} must be a whole number of at least 1, got {count!r}")
    stages = masked_stages(kind, Choice(backbone, options, num_classes, num_queries))
    return Model(stages, build_stages(stages))

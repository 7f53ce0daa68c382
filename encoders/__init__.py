"""The encoders (pixel decoders) side by side, and everything around them that a full model needs."""

from segmeter.encoders.interface import Encoder, EncoderKind, EncoderOutput
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.encoders.table import ENCODERS, build_encoder, encoder_options

__all__ = [
    "ENCODERS",
    "SYSTEMS",
    "Encoder",
    "EncoderKind",
    "EncoderOutput",
    "build_encoder",
    "encoder_options",
]

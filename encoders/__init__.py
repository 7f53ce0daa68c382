"""The encoders (pixel decoders) side by side, and everything around them that a full model needs."""

from segmeter.encoders.interface import EncoderOutput
from segmeter.encoders.table import ENCODERS, EncoderKind, build_encoder, encoder_options

__all__ = ["ENCODERS", "EncoderKind", "EncoderOutput", "build_encoder", "encoder_options"]

"""The encoders (pixel decoders) side by side, and everything around them that a full model needs."""

from encoders.build import ENCODERS, EncoderKind, build_encoder, encoder_options
from encoders.interface import EncoderOutput

__all__ = ["ENCODERS", "EncoderKind", "EncoderOutput", "build_encoder", "encoder_options"]

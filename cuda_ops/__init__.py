"""The one deformable-attention op that every encoder calls, and its closed-form cost."""

from cuda_ops.op import ms_deform_attn

__all__ = ["ms_deform_attn"]

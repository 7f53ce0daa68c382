"""The one deformable-attention op that every encoder calls, and its closed-form cost."""

from segmeter.cuda_ops.implementation import Implementation, implementation_for, use_implementation
from segmeter.cuda_ops.op import ms_deform_attn, ms_deform_attn_fused

__all__ = [
    "Implementation",
    "implementation_for",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "use_implementation",
]

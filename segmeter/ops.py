"""The op for everybody's models: speed up a model in place, stand in for the official extension.

>>> from torch import nn
>>> from segmeter import ops
>>> layer = ops.MultiScaleDeformableAttention(d_model=32, n_levels=2, n_heads=4, n_points=4)
>>> sorted(name for name, _ in layer.named_children())
['attention_weights', 'output_proj', 'sampling_offsets', 'value_proj']
"""

from segmeter.cuda_ops import (
    Acceleration,
    MultiScaleDeformableAttention,
    install,
    ms_deform_attn,
    ms_deform_attn_fused,
    uninstall,
)
from segmeter.cuda_ops import (
    accelerate_model as accelerate,
)

__all__ = [
    "Acceleration",
    "MultiScaleDeformableAttention",
    "accelerate",
    "install",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "uninstall",
]

from .formulas import fvcore_handles as fvcore_handles
from .formulas import ptflops_hooks as ptflops_hooks
from .implementation import Implementation as Implementation
from .implementation import implementation_for as implementation_for
from .implementation import kernel_for as kernel_for
from .implementation import use_implementation as use_implementation
from .op import ms_deform_attn as ms_deform_attn
from .op import ms_deform_attn_fused as ms_deform_attn_fused

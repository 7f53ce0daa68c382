"""The encoders (pixel decoders) side by side, and everything around them that a full model needs."""

import lazy_loader

# The door: what other rooms may use stands in `__init__.pyi`, and is loaded when it is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

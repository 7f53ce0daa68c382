"""segmeter's Python interface; see :mod:`harness.api` for what each name does.

Names are loaded when they are asked for: reading records needs no torch.

>>> import torch, segmeter
>>> segmeter.count(torch.nn.Linear(8, 16), (4, 8)).macs
512
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout the package's rooms are the folders beside this one; installed, they lie in this one.
if not (Path(__file__).parent / "harness").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from segmeter import ops
    from segmeter.encoders import Encoder, EncoderOutput
    from segmeter.harness.api import (
        Count,
        Difference,
        OverBudgetError,
        Profile,
        assert_within_budget,
        count,
        profile,
        register_op,
    )
    from segmeter.harness.counting import DataDependentError
    from segmeter.ops import accelerate

__version__: str

_HOMES = {
    "segmeter.encoders": ("Encoder", "EncoderOutput"),
    "segmeter.harness.api": (
        *("Count", "Difference", "OverBudgetError", "Profile"),
        *("assert_within_budget", "count", "profile", "register_op"),
    ),
    "segmeter.harness.counting": ("DataDependentError",),
    "segmeter.ops": ("accelerate",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Count",
    "DataDependentError",
    "Difference",
    "Encoder",
    "EncoderOutput",
    "OverBudgetError",
    "Profile",
    "__version__",
    "accelerate",
    "assert_within_budget",
    "count",
    "ops",
    "profile",
    "register_op",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Read where it is asked for: what is installed is listed in files.
        from importlib.metadata import version

        return version("segmeter")
    if name == "ops":
        # `import segmeter` is enough for `segmeter.ops.install()`; the module is not loaded before.
        return import_module("segmeter.ops")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Outputs on meta that torch does not work out: the same as its own, in sides, type and order in memory."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmeter.harness.models.meta_layouts import run_plainly


class Plainly(TorchDispatchMode):
    """Every operator by the rules."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_plainly(func, args, kwargs or {})


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def whole(*shape: int) -> Tensor:
    return meta(*shape, dtype=torch.int64)


X = meta(2, 3, 5, 7)
LAST = meta(2, 5, 7, 3).permute(0, 3, 1, 2)
SLICE = meta(2, 9, 7, 3)[:, :5]
HALF = meta(2, 3, 5, 7, dtype=torch.bfloat16)
CASES: dict[str, Callable[[], Any]] = {
    "sum": lambda: X + X,
    "sum with a vector": lambda: X + meta(7),
    "sum of two orders": lambda: X + LAST,
    "sum in another order": lambda: LAST + LAST,
    "sum over a gap": lambda: SLICE * 2.0,
    "column times row": lambda: meta(4, 1) * meta(1, 6),
    "expanded": lambda: meta(1, 6).expand(4, 6) - meta(4, 6),
    "half and number": lambda: HALF * 2.5,
    "half and float": lambda: HALF + X,
    "half and scalar tensor": lambda: HALF * torch.tensor(2.5, device="meta"),
    "whole and number": lambda: whole(4) / 2,
    "whole and float number": lambda: whole(4) * 0.5,
    "whole remainder": lambda: torch.fmod(whole(4), 3),
    "number to a power": lambda: 2.0 ** meta(5),
    "comparison": lambda: LAST > 0,
    "choice": lambda: torch.where(LAST > 0, LAST, 0.0),
    "not": lambda: ~(X > 0),
    "gelu": lambda: F.gelu(LAST),
    "clamp": lambda: X.clamp(0, 1),
    "in place": lambda: X.clone().add_(meta(7)),
    "nothing": lambda: meta(0, 4) + meta(4),
    "single": lambda: meta() + meta(1),
    "convolution": lambda: F.conv2d(X, meta(6, 3, 3, 3), meta(6), stride=2, padding=1),
    "wide convolution": lambda: F.conv2d(X, meta(3, 1, 3, 3), padding=2, dilation=2, groups=3),
    "short convolution": lambda: F.conv1d(meta(2, 4, 9), meta(5, 4, 3), stride=2),
    "transposed convolution": lambda: F.conv_transpose2d(X, meta(3, 6, 2, 2), stride=2),
    "linear": lambda: F.linear(meta(2, 5, 8), meta(6, 8), meta(6)),
    "matrices": lambda: meta(3, 4) @ meta(4, 5),
    "batches of matrices": lambda: meta(2, 3, 4) @ meta(2, 4, 5),
    "softmax": lambda: meta(2, 3, 4).softmax(-1),
    "layer norm": lambda: F.layer_norm(LAST.permute(0, 2, 3, 1), (3,)),
    "layer norm of tokens behind channels": lambda: F.layer_norm(meta(2, 3, 8).transpose(1, 2), (3,)),
    "layer norm's means": lambda: torch.native_layer_norm(HALF, (5, 7), None, None, 1e-5)[1],
    "group norm's scales": lambda: torch.native_group_norm(X, None, None, 2, 3, 35, 3, 1e-5)[2],
    "batch norm's means": lambda: torch.native_batch_norm(X, None, None, meta(3), meta(3), False, 0.1, 1e-5)[
        1
    ],
    "joined": lambda: torch.cat((X, meta(2, 1, 5, 7)), 1),
    "joined in another order": lambda: torch.cat((LAST, LAST), 1),
    "joined tokens": lambda: torch.cat((meta(4, 6).t(), meta(4, 6).t())),
    "stacked": lambda: torch.stack((meta(4, 1).expand(4, 6), meta(1, 6).expand(4, 6)), -1),
    "rolled": lambda: X.roll((1, 2), (2, 3)),
    "padded": lambda: F.pad(X, (0, 1, 2, 0)),
    "cut": lambda: F.pad(X, (-1, 0)),
    "rows": lambda: meta(9, 4)[whole(5)],
    "rows and columns": lambda: meta(9, 4)[whole(5), whole(5)],
    "any": lambda: (X > 0).any(1, keepdim=True),
    "largest": lambda: X.amax((1, -1)),
    "pooled": lambda: F.max_pool2d(X, 3, 2, 1),
    "pooled up": lambda: F.max_pool2d(X, 2, 2, ceil_mode=True),
    "looked up": lambda: F.grid_sample(X, meta(2, 4, 6, 2), align_corners=False),
    "looked up, one cell": lambda: F.grid_sample(X, meta(2, 1, 6, 2), mode="nearest", align_corners=True),
    "looked up in another order": lambda: F.grid_sample(LAST, meta(2, 4, 6, 2), align_corners=False),
    "nearest": lambda: F.interpolate(X, size=(10, 14), mode="nearest"),
}


def memory_order(x: Tensor) -> tuple[int, ...]:
    """Strides of the sides that have more than one cell: the others have no place in memory."""
    return tuple(stride for stride, side in zip(x.stride(), x.shape, strict=True) if side > 1)


@pytest.mark.parametrize("name", CASES)
def test_rules_give_what_torch_gives(name: str) -> None:
    expected = CASES[name]()
    with Plainly():
        found = CASES[name]()
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
    assert memory_order(found) == memory_order(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: meta(3) + meta(4),
        lambda: F.conv2d(X, meta(6, 4, 3, 3)),
        lambda: F.linear(meta(2, 8), meta(6, 7), meta(6)),
        lambda: meta(2, 3, 4) @ meta(3, 4, 5),
        lambda: torch.cat((X, meta(2, 3, 5, 6)), 1),
        lambda: whole(3).add_(0.5),
    ],
)
def test_what_does_not_fit_is_refused_in_torchs_words(wrong: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError) as theirs:
        wrong()
    with pytest.raises(RuntimeError) as ours, Plainly():
        wrong()
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("model", ["m2f", "pro-scale@r50"])
def test_counting_loads_nothing_that_takes_longer_than_the_count(model: str) -> None:
    """torch's compiler and sympy, timm, pandas and fvcore: each would take a second of the first three."""
    script = (
        "import sys\nfrom segmeter.commands.main import main\n"
        f"sys.argv = ['segmeter', 'flops', '{model}']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'torch._dynamo', 'torch._inductor', 'sympy', 'timm', 'torchvision', 'pandas', 'fvcore'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=uncached()
    )
    assert "total" in made.stdout
    assert made.stderr.splitlines()[-1] == "[]"


def uncached() -> dict[str, str]:
    import os

    return {**os.environ, "SEGMETER_CACHE": ""}

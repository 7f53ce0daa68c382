"""The op as a project that Hugging Face's kernel-builder takes, to be published on the Hub.

Its format is documented at huggingface.co/docs/kernels/builder/writing-kernels: ``build.toml`` (edition 5),
``flake.nix``, and the package in ``torch-ext``. The op is compiled where it runs, so that the project is of
the kind ``torch-noarch``: its sources travel as the package's data, and one build serves every torch and GPU.
kernel-builder adds ``_ops.py``, which names the operators anew for each build.
"""

import re
import tempfile
from pathlib import Path

from segmeter import compiler
from segmeter.cuda_ops import cpu_kernel
from segmeter.harness.op.names import check_owner

NAME = "segmeter-deform-attn"
PACKAGE = NAME.replace("-", "_")
MODULES = (
    *("arguments", "cpu_kernel", "cuda_build", "cuda_kernel", "cuda_plan", "formulas", "geometry"),
    *("implementation", "op", "reference"),
)
# Of the package's root; they need nothing of it.
SHARED = ("compiler", "plain")

BUILD = f"""\
[general]
name = "{NAME}"
version = 1
edition = 5
license = "Apache-2.0"
backends = ["cpu", "cuda"]

[general.hub]
repo-id = "{{owner}}/{NAME}"

[torch-noarch]
# The kernels' sources are compiled where they run.
pyext = ["py", "cpp", "cu", "h"]
"""

FLAKE = f"""\
{{
  description = "{NAME}";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs =
    {{ self, kernel-builder }}:
    kernel-builder.lib.genKernelFlakeOutputs {{
      inherit self;
      path = ./.;
    }};
}}
"""

CARD = """\
---
library_name: kernels
license: {{ license }}
---

# Multi-scale deformable attention

Deformable DETR's op, forward and backward, in float32, float16, bfloat16 and float64, on CPUs and on NVIDIA
GPUs from sm_70 on, under autocast and `torch.compile`. It is compiled at first use: by NVRTC, which torch's
CUDA wheels bring, or by the system's C++ compiler; where neither can be had, plain PyTorch runs, and stderr
says so once.

```python
from kernels import get_kernel

kernel = get_kernel("{{ repo_id }}", version={{ version }})
out = kernel.ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
```
"""

INIT = '''\
"""Multi-scale deformable attention, compiled where it runs."""

import torch
from torch import Tensor

from . import layers
from .op import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_gradients


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """With the official extension's signature: (B, S, M, D) -> (B, Q, M*D)."""
    with torch.no_grad():
        return ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    im2col_step: int = 64,
) -> list[Tensor]:
    """With the official extension's signature: gradients of value, locations and weights."""
    inputs = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    return list(ms_deform_attn_gradients(grad_output, *inputs))


__all__ = [
    "layers",
    "ms_deform_attn",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "ms_deform_attn_fused",
]
'''

LAYERS = '''\
"""Layers that take the place of a library's own: pure, as the Hub asks."""

import torch
from torch import Tensor, nn

from .op import ms_deform_attn


class MultiScaleDeformableAttention(nn.Module):
    """With the call of transformers' layer of this name."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list,
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int = 64,
    ) -> Tensor:
        dtype = torch.promote_types(value.dtype, sampling_locations.dtype)
        found = ms_deform_attn(
            value.to(dtype),
            value_spatial_shapes.to(torch.int64),
            level_start_index.to(torch.int64),
            sampling_locations.to(dtype),
            attention_weights.to(dtype),
        )
        return found.to(value.dtype)


__all__ = ["MultiScaleDeformableAttention"]
'''

TEST = f"""\
import kernels
import pytest
import torch

kernel = kernels.get_kernel("{{owner}}/{NAME}", version=1)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sample_in_the_middle_of_a_cell_is_the_cell(dtype):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    value = torch.randn(1, 6, 2, 8, device=device, dtype=dtype)
    shapes = torch.tensor([[2, 3]], device=device)
    starts = torch.tensor([0], device=device)
    y, x = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    places = torch.stack([(x + 0.5) / 3, (y + 0.5) / 2], -1).reshape(1, 6, 1, 1, 1, 2)
    places = places.expand(1, 6, 2, 1, 1, 2).to(device, dtype)
    weights = torch.ones(1, 6, 2, 1, 1, device=device, dtype=dtype)
    found = kernel.ms_deform_attn(value, shapes, starts, places, weights)
    # Half precisions hold a location to a few thousandths of a cell.
    torch.testing.assert_close(found, value.flatten(2), rtol=0.02, atol=0.05)
"""


def write_project(folder: Path, owner: str) -> list[Path]:
    """Write the project; the folder is whole or not there.

    Args:
        folder: a new one.
        owner: whose it will be on the Hub.

    Returns:
        The files, in ``folder``.

    Raises:
        ValueError: the folder exists already or cannot be written, or no owner's name can be so.
    """
    check_owner(owner)
    if folder.exists():
        raise ValueError(f"{folder} is there already; --out names a new folder")
    files = project(owner)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".kernel-") as own:
            made = Path(own) / "project"
            for name, text in files.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            made.rename(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror or error}") from None
    return [folder / name for name in files]


def project(owner: str) -> dict[str, str]:
    """The project's files: path -> text."""
    # In a checkout the rooms lie beside the package's own folder, installed within it.
    home, root = cpu_kernel.SOURCES.parent, Path(compiler.__file__).parent
    package = f"torch-ext/{PACKAGE}"
    files = {
        "build.toml": BUILD.format(owner=owner),
        "flake.nix": FLAKE,
        "CARD.md": CARD,
        "tests/__init__.py": "",
        f"tests/test_{PACKAGE}.py": TEST.format(owner=owner),
        f"{package}/__init__.py": INIT,
        f"{package}/layers.py": LAYERS,
    }
    for folder, names in ((home, MODULES), (root, SHARED)):
        for name in names:
            files[f"{package}/{name}.py"] = standing_alone(
                (folder / f"{name}.py").read_text(encoding="utf-8")
            )
    for source in sorted(path for path in cpu_kernel.SOURCES.rglob("*") if path.is_file()):
        name = source.relative_to(cpu_kernel.SOURCES).as_posix()
        files[f"{package}/csrc/{name}"] = source.read_text(encoding="utf-8")
    return files


def standing_alone(source: str) -> str:
    """A module of this package as one of the kernel's own: relative imports, operators by its build's name.

    >>> standing_alone("from segmeter.cuda_ops.op import f")
    'from .op import f'
    """
    source = re.sub(r"^from segmeter\.cuda_ops import", "from . import", source, flags=re.M)
    source = re.sub(r"^from segmeter(?:\.cuda_ops)?\.(\w+) import", r"from .\1 import", source, flags=re.M)
    named = re.sub(r'"segmeter::(\w+)"', r'add_op_namespace_prefix("\1")', source)
    named = re.sub(r'f"segmeter::{(\w+)}"', r"add_op_namespace_prefix(\1)", named)
    library = 'Library(add_op_namespace_prefix("").removesuffix("::"),'
    named = named.replace('Library("segmeter",', library)
    named = re.sub(r"\btorch\.ops\.segmeter\b", "ops", named)
    if named == source:
        return source
    # After the imports of torch, which every such module has.
    names = [
        name for name in ("add_op_namespace_prefix", "ops") if re.search(rf"(?<![.\w]){name}[.(,]", named)
    ]
    return re.sub(
        r"^(from torch\b.*\n)", rf"\1\nfrom ._ops import {', '.join(names)}\n", named, count=1, flags=re.M
    )

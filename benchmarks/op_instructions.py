"""Print how many instructions the CUDA kernels issue for each sample (docs/notes/op.md); without a GPU.

Run it as ``python benchmarks/op_instructions.py``, with ``80``, ``90`` or other architectures after it.
"""

import sys

import torch

from segmeter.cuda_ops import cuda_build, sass

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def rows(architecture: int) -> list[str]:
    """One line of the table for each dtype: of the plain and the fused kernel what takes more."""
    lines = []
    for name, dtype in DTYPES.items():
        loops = []
        for fused in (False, True):
            kind = cuda_build.choose_kind(dtype, 8, 32, 3, 4, fused=fused)
            assert kind is not None, "M2F's shapes fit a block"
            loops.append(sass.sample_loops(cuda_build.compile_kind(kind, architecture).cubin))
        most = [max(loop[f"segmeter_{way}"].per_sample for loop in loops) for way in ("forward", "backward")]
        lines.append(f"| {name} | sm_{architecture} | {most[0]:.0f} | {most[1]:.0f} |")
    return lines


def main(architectures: list[str]) -> int:
    """Print the table."""
    print(f"NVRTC {cuda_build.nvrtc_version()}, M2F's problem kind (8 heads of 32, 3 levels of 4 points)")
    print("| dtype | architecture | forward | backward |", "|---|---|---|---|", sep="\n")
    for architecture in architectures or ["80", "90"]:
        print(*rows(int(architecture)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

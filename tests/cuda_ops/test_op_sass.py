"""The kernels' machine code: how many instructions a warp issues for one sample of each of its pairs.

Registers and spills say nothing of redundant work. The floor, for 4 corners of 16 bytes in a thread: 2 loads
of the sample, 4 addresses, 4 loads, 16 multiply-adds in float32; 32 and 32 conversions in half precision.
"""

from functools import cache

import pytest
import torch

from segmeter.compiler import KernelUnavailableError
from segmeter.cuda_ops import cuda_build, sass
from tests.helpers.places import ROOT


def why_not() -> str:
    try:
        cuda_build.nvrtc_version()
        sass.find_disassembler()
    except KernelUnavailableError as error:
        return str(error)
    return ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@cache
def loops(dtype: torch.dtype, fused: bool) -> dict[str, sass.Loop]:
    """M2F's kernels for Hopper."""
    kind = cuda_build.choose_kind(dtype, 8, 32, 3, 4, fused=fused)
    assert kind is not None
    return sass.sample_loops(cuda_build.compile_kind(kind, 90).cubin)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("dtype", "useful", "forward", "backward"),
    # Before they were looked at: 111 and 150 in float32, 202 to 214 and 263 to 273 in half precision.
    [(torch.float32, 16, 42, 132), (torch.float16, 64, 92, 204), (torch.bfloat16, 64, 92, 212)],
)
def test_a_sample_takes_few_instructions(
    dtype: torch.dtype, useful: int, forward: int, backward: int, fused: bool
) -> None:
    found = loops(dtype, fused)
    assert useful <= found["segmeter_forward"].per_sample <= forward
    assert useful <= found["segmeter_backward"].per_sample <= backward


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("dtype", "multiply_adds"), [(torch.float32, 16), (torch.float16, 32), (torch.bfloat16, 32)]
)
def test_the_loop_forward_does_what_it_must_and_nothing_twice(
    dtype: torch.dtype, multiply_adds: int, fused: bool
) -> None:
    loop = loops(dtype, fused)["segmeter_forward"]
    per_sample = {code: count / loop.samples for code, count in loop.instructions.items()}
    # Each corner is loaded at once and weighted once; the sample is read in two loads of 16 bytes.
    assert (per_sample["LDG"], per_sample["FFMA"], per_sample["LDS"]) == (4, multiply_adds, 2)
    # Weights come ready; the arguments were read before the loop.
    assert not {"FMUL", "FSEL", "LDC", "S2R", "CALL"} & set(per_sample)


@pytest.mark.skipif(not WHY_NOT and cuda_build.nvrtc_version() != "13.2", reason="tabled by NVRTC 13.2")
def test_the_documentation_tables_these_very_numbers() -> None:
    table = (ROOT / "docs" / "notes" / "op.md").read_text(encoding="utf-8")
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        now = [
            f"{max(loops(dtype, fused)[f'segmeter_{way}'].per_sample for fused in (False, True)):.0f}"
            for way in ("forward", "backward")
        ]
        row = next(line for line in table.splitlines() if line.startswith(f"| {name} | "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert [cells[2], cells[4]] == now


def test_two_loops_one_within_the_other_are_told_apart() -> None:
    lines = [
        *(".L_x_1:", "/*0000*/ LDG.E.128 R0, [R2] ;", ".L_x_2:", "/*0010*/ FFMA R0, R1, R2, R3 ;"),
        *(4 * ["/*0020*/ @P0 LDG.E.128.CONSTANT R4, [R2] ;"]),
        *("/*0030*/ @!P1 BRA `(.L_x_2) ;", "/*0040*/ BRA `(.L_x_1) ;", "/*0050*/ EXIT ;"),
    ]
    loop = sass._sample_loop("kernel", lines, 4)
    assert loop.instructions == {"FFMA": 1, "LDG": 4, "BRA": 1} and loop.per_sample == 6
    with pytest.raises(ValueError, match="kernel has no loop"):
        sass._sample_loop("kernel", lines[1:2], 4)

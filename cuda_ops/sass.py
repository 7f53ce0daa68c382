"""What the CUDA kernels are as machine code (SASS): the instructions that a warp issues for each sample.

Registers and spills, which the assembler reports, say nothing of redundant work; the loop itself does.
``nvdisasm`` reads a build without a GPU; triton, which torch's CUDA wheels bring, has it, and so has CUDA.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from segmeter.compiler import KernelUnavailableError

CORNERS = 4


@dataclass(frozen=True)
class Loop:
    """The loop over samples of one kernel.

    Attributes:
        instructions: how often each opcode stands in the loop, without modifiers, e.g. ``FFMA``.
        samples: samples that one turn takes.
    """

    instructions: Counter[str]
    samples: int

    @property
    def per_sample(self) -> float:
        """Instructions that a warp issues at most for one sample of each of its pairs."""
        return self.instructions.total() / self.samples


@cache
def find_disassembler() -> str:
    """The path of ``nvdisasm``.

    Raises:
        KernelUnavailableError: it is not installed.
    """
    triton = find_spec("triton")
    if triton and triton.origin:
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        if bundled.is_file():
            return str(bundled)
    found = shutil.which("nvdisasm")
    if found is None:
        raise KernelUnavailableError("there is no nvdisasm; `pip install triton` brings it")
    return found


def sample_loops(cubin: bytes, steps: int = 1) -> dict[str, Loop]:
    """The loops over samples by kernel, of machine code from :func:`cuda_build.compile_kind`.

    Args:
        cubin: the machine code.
        steps: how often a thread loads from each corner.

    Raises:
        KernelUnavailableError: nvdisasm is missing, or cannot read this code.
        ValueError: a kernel has no loop that gathers.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([find_disassembler(), "-c", file.name], capture_output=True, text=True)
    if done.returncode:
        raise KernelUnavailableError(f"nvdisasm cannot read this code: {done.stderr.strip()[:120]}")
    return {name: _sample_loop(name, lines, CORNERS * steps) for name, lines in _kernels(done.stdout)}


def _kernels(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\s*\.section\s+\.text\.", text, flags=re.M)[1:]:
        name = re.match(r"\w+", part)
        assert name is not None
        yield name[0], part.splitlines()


def _sample_loop(kernel: str, lines: list[str], loads: int) -> Loop:
    """The loop with most multiply-adds, of those without a loop inside: from a label to the branch back."""
    labels: dict[str, int] = {}
    body: list[tuple[str, str]] = []
    innermost: list[tuple[int, int]] = []
    for line in lines:
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(body)
        # An instruction: its address as a comment, perhaps a predicate, the opcode, modifiers and operands.
        code = re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9]+)([^;]*);", line)
        if code is None:
            continue
        body.append((code[1], code[2]))
        target = re.search(r"`\((\.L_x_\d+)\)", code[2]) if code[1] == "BRA" else None
        if target and target[1] in labels:
            start = labels[target[1]]
            if not any(start <= inner for inner, _ in innermost):
                innermost.append((start, len(body)))
    loops = [body[start:end] for start, end in innermost]
    best = max(loops, key=lambda loop: sum(code == "FFMA" for code, _ in loop), default=[])
    # A corner is loaded as one wide access; narrower ones read something else.
    gathers = sum(code == "LDG" and ".128" in rest for code, rest in best)
    if not gathers or gathers % loads:
        raise ValueError(f"{kernel} has no loop that loads all corners: {gathers} wide loads")
    return Loop(Counter(code for code, _ in best), gathers // loads)

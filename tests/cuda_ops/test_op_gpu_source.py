"""The CUDA kernels without a GPU: they compile for every architecture, spill nothing, and are right.

Right means here: compiled as C++ and run thread by thread on the CPU (gpu_emulator.cpp), launched as
cuda_plan.plan says, under sanitizers too. What this cannot show: speed, and the two instructions that are
written in assembly (conversions of half precisions, and additions of four floats from sm_90 on).
"""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from segmeter.compiler import KernelUnavailableError, find_compiler
from segmeter.cuda_ops import cuda_build, cuda_kernel, cuda_plan, reference
from segmeter.cuda_ops.cuda_build import SOURCES
from tests.helpers.op_inputs import Inputs, draw, relative_error, starts_of
from tests.helpers.places import DATA

HALVES = (torch.float16, torch.bfloat16)
# Levels that a block holds at most, with one point each: 32 bytes for the sample, 12 for the sizes.
MOST = 1115
# 53, 24, 11 and 8 bits of each result, over sums of a dozen terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def missing(what: str) -> str:
    """Why a test that needs NVRTC or a compiler cannot run here, or an empty string."""
    try:
        cuda_build.nvrtc_version() if what == "nvrtc" else find_compiler()
    except KernelUnavailableError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(missing("nvrtc")), reason=missing("nvrtc"))
needs_compiler = pytest.mark.skipif(bool(missing("compiler")), reason=missing("compiler"))


def known_architectures() -> list[int]:
    """What the NVRTC at hand compiles for; that of CUDA 13 has left sm_70 behind."""
    from cuda.bindings import nvrtc

    found: list[int] = nvrtc.nvrtcGetSupportedArchs()[1]
    return found


# PRO-SCALE's three stages have 1, 2 and 3 levels; M2F is the last; Lite-M2F has 4.
ENCODER_BUILDS = [(arch, 3) for arch in cuda_build.ARCHITECTURES] + [(90, 1), (90, 2), (90, 4)]


@needs_nvrtc
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("architecture", "levels"), ENCODER_BUILDS)
def test_the_encoders_kernels_compile_and_spill_nothing(architecture: int, levels: int, fused: bool) -> None:
    for dtype in (torch.float32, *HALVES):
        kind = cuda_build.choose_kind(dtype, 8, 32, levels, 4, fused=fused)
        assert kind is not None
        if architecture not in known_architectures():
            with pytest.raises(KernelUnavailableError, match="CUDA 12"):
                cuda_build.compile_kind(kind, architecture)
            return
        build = cuda_build.compile_kind(kind, architecture)
        assert build.spilled_bytes() == {"segmeter_forward": 0, "segmeter_backward": 0}
        # Four blocks of 256 threads share 65536 registers.
        assert max(build.registers().values()) <= 64
        assert build.cubin[:4] == b"\x7fELF"


@needs_nvrtc
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize(("dim", "levels", "points"), [(8, 5, 8), (36, 2, 3), (7, 1, 1), (128, 4, 8)])
def test_other_shapes_compile(dtype: torch.dtype, dim: int, levels: int, points: int) -> None:
    kind = cuda_build.choose_kind(dtype, 3, dim, levels, points, fused=True)
    assert kind is not None
    assert cuda_build.compile_kind(kind, 90).cubin[:4] == b"\x7fELF"


@needs_nvrtc
def test_an_architecture_that_nvrtc_does_not_know_is_told_in_one_line() -> None:
    kind = cuda_build.choose_kind(torch.float32, 8, 32, 3, 4, fused=False)
    assert kind is not None
    with pytest.raises(KernelUnavailableError, match="sm_12345") as error:
        cuda_build.compile_kind(kind, 12345)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("dim", [1, 7, 8, 32, 36, 64, 96, 128, 200])
@pytest.mark.parametrize("samples", [1, 12, 100, 384])
def test_the_layout_covers_all_channels_and_fits_a_block(dtype: torch.dtype, dim: int, samples: int) -> None:
    kind = cuda_build.choose_kind(dtype, 8, dim, 1, samples, fused=True)
    assert kind is not None
    assert dim % kind.width == 0 and kind.width * dtype.itemsize <= 16
    assert kind.threads % 32 == 0 and 32 % kind.lanes == 0
    assert kind.tile[0] * kind.tile[1] == kind.pairs_per_block
    assert kind.shared_bytes() <= 48 * 1024


@needs_nvrtc
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("dtype", "dim", "levels", "points"),
    # The encoders'; rows of an odd number of 16 bytes; the most levels of one point that a block holds.
    [
        (torch.float32, 32, 3, 4),
        (torch.float16, 32, 3, 4),
        (torch.float64, 7, 1, 3),
        (torch.float32, 8, MOST, 1),
    ],
)
def test_shared_memory_is_bounded_as_the_assembler_says(
    dtype: torch.dtype, dim: int, levels: int, points: int, fused: bool
) -> None:
    kind = cuda_build.choose_kind(dtype, 1, dim, levels, points, fused=fused)
    assert kind is not None
    said = max(cuda_build.compile_kind(kind, 90).shared_bytes().values())
    # Up to 15 bytes lie unused before each of five arrays.
    assert said <= kind.shared_bytes() < said + 5 * 16 and said <= 48 * 1024


def test_too_many_samples_or_levels_for_a_block_are_refused_by_name() -> None:
    for levels, points in ((MOST, 1), (1, 1533)):
        assert cuda_build.choose_kind(torch.float32, 1, 8, levels, points, fused=True)
    for levels, points in ((MOST + 1, 1), (1, 1534)):
        assert cuda_build.choose_kind(torch.float32, 1, 8, levels, points, fused=True) is None
        value, places = torch.empty(1, 1, 1, 8), torch.empty(1, 1, 1, levels, points, 2)
        reason = cuda_kernel.refusal(value, places, fused=True)
        assert f"{levels * points} samples" in reason and f"{levels} levels" in reason


def build_emulator(kind: cuda_build.Kind, folder: Path, sanitize: str = "") -> Path:
    program = folder / "emulator"
    source = Path(__file__).with_name("gpu_emulator.cpp")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-pthread", f"-I{SOURCES}"]
    if sanitize:
        flags += ["-g", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    command = [find_compiler().path, *flags, *kind.options(), "-o", str(program), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    if sanitize and "cannot find -l" in built.stderr:
        pytest.skip(f"no library for -fsanitize={sanitize}")
    assert built.returncode == 0, built.stderr
    return program


def emulate(program: Path, direction: str, plan: cuda_plan.Plan, results: dict[str, torch.Tensor]) -> None:
    """Run one pass as planned; ``results`` are filled."""
    folder = program.parent
    for name, tensor in plan.tensors.items():
        # Numpy has no bfloat16; a tensor's bytes are the same in any type of its size.
        tensor.view(torch.uint8).numpy().tofile(folder / f"{name}.bin")
    problem = plan.problem
    (folder / "layout.bin").write_bytes(bytes(problem.layout))
    numbers = (
        *(*plan.grid, problem.queries, problem.tokens),
        *(problem.reference_batches, problem.reference_levels),
    )
    command = [str(program), str(folder), direction, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    assert int(done.stdout) == ctypes.sizeof(cuda_plan.Problem)
    for name, tensor in results.items():
        content = bytearray((folder / f"{name}.bin").read_bytes())
        tensor.copy_(torch.frombuffer(content, dtype=tensor.dtype).view(tensor.shape))


def run_kernels(
    tensors: Sequence[torch.Tensor | None], grad_output: torch.Tensor, folder: Path, sanitize: str = ""
) -> list[torch.Tensor]:
    """Output and gradients of value, places and weights, by the CUDA kernels' source."""
    value, _, _, places, weights, _ = tensors
    assert value is not None and places is not None and weights is not None
    wide = torch.float64 if value.dtype is torch.float64 else torch.float32
    # What is not written must show.
    output = torch.full_like(grad_output, float("nan"))
    grads = {
        "grad_value": torch.zeros(value.shape, dtype=wide),
        "grad_places": torch.full_like(places, float("nan")),
        "grad_weights": torch.full_like(weights, float("nan")),
    }
    forward = cuda_plan.plan(tensors, {"output": output})
    program = build_emulator(forward.kind, folder, sanitize)
    emulate(program, "forward", forward, {"output": output})
    backward = cuda_plan.plan(tensors, {"grad_output": grad_output, **grads})
    assert backward.kind == forward.kind
    emulate(program, "backward", backward, grads)
    return [output, *grads.values()]


def check_kernels(inputs: Inputs, dtype: torch.dtype, fused: bool, folder: Path, sanitize: str = "") -> None:
    """Both passes of the CUDA kernels against the float64 reference on the same rounded inputs."""
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    value, shapes, starts = inputs.value.to(dtype), inputs.shapes, inputs.starts
    points = inputs.points.to(wide) if fused else None
    chosen = (inputs.offsets, inputs.logits) if fused else (inputs.locations, inputs.weights)
    places, weights = (t.to(dtype) for t in chosen)
    generator = torch.Generator().manual_seed(3)
    grad_shape = (*places.shape[:2], value.shape[2] * value.shape[3])
    grad_output = torch.randn(grad_shape, dtype=torch.float64, generator=generator).to(dtype)
    given = run_kernels((value, shapes, starts, places, weights, points), grad_output, folder, sanitize)

    grad, value, places, weights = (t.double() for t in (grad_output, value, places, weights))
    if points is not None:
        expected = reference.fused_forward(value, shapes, points.double(), places, weights)
        gradients = reference.fused_backward(grad, value, shapes, points.double(), places, weights)
    else:
        expected = reference.forward(value, shapes, places, weights)
        gradients = reference.backward(grad, value, shapes, places, weights)
    for mine, theirs in zip(given, (expected, *gradients), strict=True):
        assert relative_error(mine, theirs) < TOLERANCE[dtype]


@needs_compiler
@pytest.mark.parametrize("case", [1, 4, 5])
def test_the_kernels_give_the_official_outputs_and_gradients(case: int, tmp_path: Path) -> None:
    with np.load(DATA / "op_parity.npz") as stored:
        data = {
            name.partition("_")[2]: torch.from_numpy(stored[name])
            for name in stored.files
            if name.startswith(f"case{case}_")
        }
    shapes = data["spatial_shapes"]
    inputs = (data["value"], shapes, starts_of(shapes), data["sampling_locations"], data["attention_weights"])
    given = run_kernels((*inputs, None), data["grad_out"], tmp_path)
    for name, mine in zip(("", "value", "sampling_locations", "attention_weights"), given, strict=True):
        # float64 against float64: only the order of sums may differ.
        torch.testing.assert_close(mine, data[f"grad_{name}" if name else "output"], rtol=0, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "fused", "heads", "dim", "sizes", "points"),
    [
        (torch.float32, False, 8, 32, [(4, 6), (2, 3)], 4),
        (torch.float32, True, 3, 36, [(4, 6), (2, 3), (1, 1)], 3),
        (torch.float64, False, 1, 7, [(5, 4)], 1),
        # Two steps of 32 lanes.
        (torch.float64, True, 2, 128, [(4, 6), (2, 3)], 2),
        (torch.float16, False, 2, 8, [(4, 6), (2, 3)], 4),
        (torch.float16, True, 2, 64, [(4, 6), (2, 3)], 4),
        (torch.bfloat16, False, 3, 24, [(9, 5)], 2),
        (torch.bfloat16, True, 8, 32, [(4, 6), (2, 3), (1, 1)], 4),
        # Queries that are tokens: tiles of neighbours, the last ones cut by the maps' edges.
        (torch.float32, False, 2, 32, [(7, 15), (4, 9)], 4),
        (torch.float16, True, 1, 32, [(7, 15), (4, 9)], 4),
        # More levels than are passed by value.
        (torch.float32, False, 1, 8, [(2, 3)] * 17, 1),
        # More samples than a block of 256 threads can hold: fewer threads.
        (torch.float32, True, 2, 8, [(3, 3)] * 12, 8),
    ],
)
def test_the_kernels_thread_by_thread(
    dtype: torch.dtype,
    fused: bool,
    heads: int,
    dim: int,
    sizes: list[tuple[int, int]],
    points: int,
    tmp_path: Path,
) -> None:
    queries = sum(height * width for height, width in sizes) if sizes[0] == (7, 15) else 7
    # One item where there are many threads: that two are told apart shows with few.
    batch = 1 if heads == 8 or queries > 7 else 2
    inputs = draw(
        sizes,
        batch=batch,
        queries=queries,
        heads=heads,
        dim=dim,
        points=points,
        own_points=(fused, heads > 2),
    )
    inputs.offsets[batch - 1, 2, 0, 0, 0, 0] = float("nan")
    check_kernels(inputs, dtype, fused, tmp_path)


@needs_compiler
def test_before_sm_80_bfloat16_is_rounded_without_the_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cuda_build.Kind.options
    monkeypatch.setattr(cuda_build.Kind, "options", lambda kind: [*plain(kind), "-D__CUDA_ARCH__=750"])
    inputs = draw([(4, 6), (2, 3)], batch=1, queries=7, heads=2, dim=8)
    inputs.offsets[0, 2, 0, 0, 0, 0] = float("nan")
    check_kernels(inputs, torch.bfloat16, True, tmp_path)


@needs_compiler
def test_sizes_that_the_host_does_not_know_are_read_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as those that a CUDA graph meets for the first time while it is captured.
    monkeypatch.setattr(cuda_plan, "known_sizes", lambda shapes: None)
    check_kernels(draw([(4, 6), (2, 3)], queries=30), torch.float32, False, tmp_path)


@needs_compiler
@pytest.mark.parametrize("sanitize", ["address,undefined", "thread"])
@pytest.mark.parametrize(("dtype", "fused"), [(torch.float32, False), (torch.float16, True)])
def test_the_kernels_read_and_write_no_wrong_place_and_race_nowhere(
    dtype: torch.dtype, fused: bool, sanitize: str, tmp_path: Path
) -> None:
    # Tiles that the edge cuts; samples that many queries share, so that additions collide.
    # Queries on the fine level have both reduced in the block, those on the coarse one that alone.
    inputs = draw([(8, 15), (4, 4)], batch=1, queries=136, heads=1, dim=16, points=1)
    kind = cuda_build.choose_kind(dtype, 1, 16, 2, 1, fused=fused)
    assert kind and kind.reduce and cuda_plan.lay_out(((8, 15), (4, 4)), 136, kind.tile)[0].maps == 2
    check_kernels(inputs, dtype, fused, tmp_path, sanitize)


def test_a_launch_takes_strided_and_unaligned_tensors() -> None:
    inputs = draw([(4, 6)], batch=2, queries=3)
    value = torch.randn(2, 2, 24, 8).permute(0, 2, 1, 3)
    unaligned = torch.randn(inputs.weights.numel() + 1)[1:].view(inputs.weights.shape)
    assert unaligned.data_ptr() % cuda_build.LOAD_BYTES
    locations = inputs.locations.float()
    plan = cuda_plan.plan((value, inputs.shapes, inputs.starts, locations, unaligned, None), {})
    for name, given in (("value", value), ("weights", unaligned)):
        passed = plan.tensors[name]
        assert passed.is_contiguous() and not passed.data_ptr() % cuda_build.LOAD_BYTES
        assert getattr(plan.problem, name) == passed.data_ptr() and passed.equal(given)
    # One tile of 3 queries for each of 2 items and 2 heads.
    assert (plan.problem.queries, plan.grid) == (3, (1, 2, 2))


@pytest.mark.parametrize(("batch", "queries", "heads"), [(1, 2**32, 1), (2**16, 1, 1), (1, 1, 2**16)])
def test_more_blocks_than_a_grid_holds_are_refused(batch: int, queries: int, heads: int) -> None:
    # Tensors without memory.
    value = torch.empty(batch, 1, heads, 128, device="meta")
    places = torch.empty(batch, queries, heads, 1, 1, 2, device="meta")
    assert cuda_plan.kind_of(value, places, fused=False) is not None
    assert "one launch" in cuda_kernel.refusal(value, places, fused=False)


MAPS = [(3, 9), (8, 17)]


@pytest.mark.parametrize(
    ("sizes", "queries", "tiles"),
    [
        # Both maps: 1 x 2 and 2 x 3 tiles of 4 x 8.
        (MAPS, 27 + 136, 8),
        # So many queries that they are the tokens of no map, 32 in each tile.
        (MAPS, 100, 4),
        # A map three rows high would cut one tile into two, one of one row four tiles; sizes may be unknown.
        (MAPS, 27, 1),
        ([(1, 320)], 320, 10),
        (None, 320, 10),
    ],
)
def test_every_query_has_one_place_in_the_tiles(
    sizes: list[tuple[int, int]] | None, queries: int, tiles: int
) -> None:
    layout, count = cuda_plan.lay_out(tuple(sizes) if sizes else None, queries, (4, 8))
    assert count == tiles
    found = []
    for tile in range(count):
        # As query_of() of csrc/gpu.cu does it.
        of = max(n for n in range(layout.maps) if layout.map[n].first_tile <= tile)
        at = layout.map[of]
        down, across = divmod(tile - at.first_tile, at.tiles_across)
        for y in range(4 * down, min(4 * down + 4, at.height)):
            row = at.first_query + y * at.width
            found += [row + x for x in range(8 * across, min(8 * across + 8, at.width)) if row + x < queries]
    assert sorted(found) == list(range(queries))


@needs_nvrtc
def test_the_cache_knows_kinds_and_architectures_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path))
    kinds = [cuda_build.choose_kind(torch.float32, 2, 8, 1, 1, fused=fused) for fused in (False, True)]
    places = [cuda_build.prepare(kind, arch) for kind in kinds if kind for arch in (80, 90)]
    assert len(set(places)) == 4 and sorted(tmp_path.iterdir()) == sorted(places)
    written = places[0].stat().st_mtime_ns
    assert kinds[0] is not None
    assert cuda_build.prepare(kinds[0], 80) == places[0] and places[0].stat().st_mtime_ns == written


def test_the_hint_names_packages_of_torchs_own_cuda_version() -> None:
    hint = cuda_build.install_hint()
    if torch.version.cuda is None:
        assert "torch with CUDA" in hint
    else:
        assert f"cuda-bindings=={torch.version.cuda.split('.')[0]}.*" in hint

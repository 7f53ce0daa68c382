"""Building the CPU kernel: the cache, two builders at once, what is said when there is no compiler."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from segmeter.compiler import KernelUnavailableError, cached_file, find_compiler
from segmeter.cuda_ops import implementation_for, ms_deform_attn, use_implementation
from tests.helpers.fresh import Fresh
from tests.helpers.op_inputs import as_leaves, draw

ONE_CALL = """
import sys
import torch
from segmeter.cuda_ops import implementation_for
from segmeter.cuda_ops import ms_deform_attn
def call():
    at, weight = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
    return ms_deform_attn(torch.ones(1, 1, 1, 8), torch.tensor([[1, 1]]), torch.tensor([0]), at, weight)
assert call().eq(1).all() and call().eq(1).all()
# Torch's compiler takes more than a second to load, and a call does not need it.
assert "torch._dynamo" not in sys.modules
print(implementation_for("cpu", torch.float32).name)
"""


def has_compiler() -> bool:
    try:
        find_compiler()
    except KernelUnavailableError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


def start(cache: Path, **variables: str) -> Fresh:
    return Fresh(ONE_CALL, SEGMETER_CACHE=str(cache), **variables)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiler in a hurry: how fast the kernel is does not matter here."""
    script = tmp_path_factory.mktemp("compiler") / "c++"
    script.write_text(f'#!/bin/sh\nexec {find_compiler().path} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def built(quick: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which two processes have built at once."""
    cache = tmp_path_factory.mktemp("cache")
    processes = [start(cache, CXX=quick), start(cache, CXX=quick)]
    for process in processes:
        assert process.communicate() == ("cpu-kernel\n", "")
    return cache


@needs_compiler
def test_two_processes_building_at_once_leave_one_whole_library(built: Path) -> None:
    assert [path.suffix for path in built.iterdir()] == [".so"]


def other_library(folder: Path, compiler: str) -> bytes:
    """One that loads, and holds nothing of what is asked of it."""
    (folder / "other.cpp").write_text("int nothing;")
    made = folder / "other.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, folder / "other.cpp"], check=True)
    return made.read_bytes()


@needs_compiler
def test_a_damaged_library_is_built_again(built: Path, quick: str, tmp_path: Path) -> None:
    (library,) = shutil.copytree(built, tmp_path / "cache").iterdir()
    whole = library.read_bytes()
    # A loader refuses the first; at the others it ends the process, or takes the library as it is.
    for damaged in (whole[:100], whole[: len(whole) // 2], whole[:-40], other_library(tmp_path, quick)):
        library.write_bytes(damaged)
        assert start(library.parent, CXX=quick).communicate() == ("cpu-kernel\n", "")
        assert library.stat().st_size == len(whole)


def test_without_a_compiler_the_reference_runs_with_one_notice(tmp_path: Path) -> None:
    out, err = start(tmp_path, CXX="no-such-compiler").communicate()
    assert out.strip() == "reference"
    assert err.count("\n") == 1 and "no-such-compiler" in err and "install" in err


def test_a_failing_compiler_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho "x: error: boom" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    out, err = start(tmp_path / "cache", CXX=str(compiler)).communicate()
    assert out.strip() == "reference"
    assert err.count("\n") == 1 and "boom" in err
    assert not list((tmp_path / "cache").iterdir())


def test_the_reference_asked_for_says_nothing(tmp_path: Path) -> None:
    out, err = start(tmp_path, SEGMETER_OP="reference").communicate()
    assert (out.strip(), err) == ("reference", "")
    assert not list(tmp_path.iterdir())


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="auto or reference"), use_implementation("fastest"):
        pass


def test_the_choice_holds_within_its_context_alone() -> None:
    before = implementation_for("cpu", torch.float32)
    with use_implementation("reference"):
        assert implementation_for("cpu", torch.float32).name == "reference"
    assert implementation_for("cpu", torch.float32) == before
    assert implementation_for("meta", torch.float32).name == "reference"
    assert implementation_for("cpu", torch.int64).name == "reference"


@needs_compiler
def test_a_backward_pass_in_another_thread_takes_its_forwards_choice() -> None:
    # On a map this wide the float32 reference rounds places otherwise than the kernel: their bits differ.
    tensors = [t.float() if t.is_floating_point() else t for t in draw([(2, 4096)], queries=50).plain()]

    def gradient(choice: str, in_thread: bool) -> torch.Tensor:
        leaves = as_leaves(tuple(tensors))
        with use_implementation(choice):
            output = ms_deform_attn(*leaves).sum()
        if in_thread:
            thread = threading.Thread(target=output.backward)
            thread.start()
            thread.join()
        else:
            output.backward()
        assert leaves[3].grad is not None
        return leaves[3].grad

    compiled, plain = gradient("auto", False), gradient("reference", False)
    assert not torch.equal(compiled, plain)
    assert torch.equal(gradient("reference", True), plain)
    assert torch.equal(gradient("auto", True), compiled)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path))

    def interrupted(target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_file("kernel.so", interrupted)
    assert not list(tmp_path.iterdir())
    place = cached_file("kernel.so", lambda target: target.write_bytes(b"whole") and None)
    assert place.read_bytes() == b"whole"


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SEGMETER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(KernelUnavailableError, match="SEGMETER_CACHE"):
        cached_file("kernel.so", lambda target: None)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_what_another_user_could_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(target: Path) -> None:
        target.write_bytes(b"own")

    cache = tmp_path / "cache"
    monkeypatch.setenv("SEGMETER_CACHE", str(cache))
    cached_file("kernel.so", build)
    assert cache.stat().st_mode & 0o077 == 0
    for folder, file, fault in ((0o777, 0o644, "any user"), (0o1777, 0o666, "any user"), (0o1777, 0o644, "")):
        cache.chmod(folder)
        (cache / "kernel.so").chmod(file)
        if not fault:
            assert cached_file("kernel.so", build).read_bytes() == b"own"
            continue
        with pytest.raises(KernelUnavailableError, match=fault):
            cached_file("kernel.so", build)
    cache.chmod(0o777)
    with pytest.raises(KernelUnavailableError, match="any user"):
        cached_file("new.so", build)
    cache.chmod(0o700)
    monkeypatch.setattr("os.geteuid", lambda: cache.stat().st_uid + 1)
    if cache.stat().st_uid:  # what root owns, everybody trusts
        with pytest.raises(KernelUnavailableError, match="another user"):
            cached_file("kernel.so", build)

"""What ``profile --device cuda`` asks, writes and prints, where torch is told that there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.gpu_stand_in import GPU, MEBIBYTE, build_nvml
from tests.helpers.places import ROOT

MODEL = """
import torch

def build():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
"""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: nothing need stand in")


def profile(folder: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What was printed, and the record."""
    (folder / "mine.py").write_text(MODEL)
    (folder / "nvml").mkdir()
    environment = {**build_nvml(folder / "nvml"), "NVML_STEP": "3000000", "NVML_PIDS": "400001"}
    quick = ("--device", "cuda", "--padded-size", "64x64", "--seconds", "0.2", "--out", str(folder / "runs"))
    program = str(ROOT / "tests" / "helpers" / "gpu_stand_in.py")
    done = subprocess.run(
        [sys.executable, program, "profile", f"{folder}/mine.py:build", *quick, *arguments],
        env={**environment, "COLUMNS": "300", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (written,) = (folder / "runs").iterdir()
    return " ".join(done.stdout.split()), json.loads(written.read_text())


def test_a_gpus_record_holds_its_energy_memory_clocks_and_tf32(tmp_path: Path) -> None:
    printed, record = profile(tmp_path)
    assert "Measured at 64x64, batch 1, fp32 with convolutions in TF32, cuda" in printed
    assert record["settings"]["tf32"] == "convolutions"
    figures = record["figures"]
    # The counter moves by 3000 J between two readings.
    calls = int(record["notes"]["energy"].partition("counter, ")[2].split()[0])
    assert figures["joules_per_image"] == pytest.approx(3000 / calls)
    assert record["notes"]["energy"].startswith("total-energy counter, ")
    # 5 MiB at the peak over 1 MiB before, and the model's own weights.
    own = 4 * (8 * 3 * 9 + 8 + 4 * 8 * 9 + 4)
    assert figures["peak_allocated_over_start_bytes"] == 4 * MEBIBYTE
    assert figures["peak_allocated_bytes"] == 4 * MEBIBYTE + own
    assert figures["peak_reserved_over_start_bytes"] == 6 * MEBIBYTE
    environment = record["environment"]
    assert environment["device_name"] == environment["gpu"]["name"] == GPU.name
    assert (environment["gpu"]["driver"], environment["gpu"]["capability"]) == ("580.1", "9.0")
    during = environment["during"]
    assert during["sm_mhz"]["median"] == 1980 and during["power_w"]["median"] == 100
    assert during["throttle_reasons"] == {"power cap": during["readings"]}
    # The one process that NVML lists under a number of its own is this one.
    assert during["other_gpu_processes"] == 0
    assert "throttled by power cap" in printed and "0 other processes on the GPU" in printed


def test_replays_of_a_graph_are_timed_and_components_are_the_eager_models(tmp_path: Path) -> None:
    printed, record = profile(tmp_path, "--cuda-graph", "--dtype", "bf16")
    assert "Measured at 64x64, batch 1, bf16, cuda, 1 thread, CUDA graph" in printed
    assert record["settings"]["cuda_graph"] and record["settings"]["tf32"] is None
    # A graph stays where it was captured.
    assert record["figures"]["fresh_copies"] == 0
    assert {"0", "1", "2"} <= set(record["components"])


def test_nvml_that_denies_all_leaves_a_record_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "NVML_DENIED", "nvmlInitWithFlags")
    printed, record = profile(tmp_path)
    assert record["figures"]["joules_per_image"] is None
    assert "energy not measured: NVML refuses: Insufficient Permissions" in printed
    assert record["environment"]["during"]["unavailable"] == "NVML refuses: Insufficient Permissions"


def test_a_gpu_without_tf32_is_not_said_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Turing: torch would allow TF32, the GPU has none.
    monkeypatch.setitem(os.environ, "CAPABILITY", "7.5")
    printed, record = profile(tmp_path)
    assert record["settings"]["tf32"] is None and "batch 1, fp32, cuda" in printed

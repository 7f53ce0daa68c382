"""Energy of a GPU: what NVML gives, what it denies, and that nothing is ever 0 J.

Where these run there is no GPU. A stand-in has NVML's functions and errors, so that each way is taken.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import energy
from harness.energy import EnergyUnavailable, gpu_state, measure_energy, nvml_handle

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]


class DeniedError(Exception):
    """NVML's error class in the stand-in."""


class StandIn:
    """A GPU at 100 W whose counter moves by a joule a reading; ``denied`` readings are refused."""

    NVMLError = DeniedError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, denied: tuple[str, ...] = (), step: int = 1000) -> None:
        self.denied, self.step, self.millijoules = denied, step, 5000

    def __getattr__(self, name: str) -> Any:
        def read(*arguments: Any) -> Any:
            if name in self.denied:
                raise DeniedError("Insufficient Permissions")
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                self.millijoules += self.step
                return self.millijoules
            return {
                "nvmlDeviceGetPowerUsage": 100_000,
                "nvmlSystemGetDriverVersion": b"580.1",
                "nvmlDeviceGetClockInfo": 1980,
                "nvmlDeviceGetMaxClockInfo": 1980,
                "nvmlDeviceGetTemperature": 61,
                "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1 | 0x4,
                "nvmlDeviceGetComputeRunningProcesses": [],
            }[name]

        return read


def use(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "nvml_handle", lambda device: (stand_in, "handle"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)


def test_the_counter_is_read_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    use(StandIn(), monkeypatch)
    found = measure_energy(lambda: None, GPU, seconds=0)
    # One call, and one reading of 1000 mJ between the two ends.
    assert (found.method, found.calls, found.joules_per_call) == ("total-energy counter", 1, 1.0)
    assert found.watts == pytest.approx(1.0 / found.seconds)


def test_without_a_counter_power_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    use(StandIn(denied=("nvmlDeviceGetTotalEnergyConsumption",)), monkeypatch)
    found = measure_energy(lambda: None, GPU, seconds=0.1)
    assert (found.method, found.watts) == ("sampled power", 100.0)
    assert found.joules_per_call * found.calls == pytest.approx(100.0 * found.seconds)


@pytest.mark.parametrize(
    ("stand_in", "says"),
    [
        (StandIn(step=0), "the energy counter did not move"),
        (
            StandIn(denied=("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")),
            "neither total energy nor power",
        ),
    ],
)
def test_nothing_to_read_is_a_reason_never_zero(
    stand_in: StandIn, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(stand_in, monkeypatch)
    with pytest.raises(EnergyUnavailable, match=says):
        measure_energy(lambda: None, GPU, seconds=0)


def test_a_denied_reading_is_left_out_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    use(StandIn(denied=("nvmlDeviceGetTemperature",)), monkeypatch)
    state = gpu_state(GPU)
    assert "temperature_c" not in state
    assert (state["driver"], state["sm_mhz"], state["power_w"]) == ("580.1", 1980, 100.0)
    assert state["throttle_reasons"] == ["power cap"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_the_real_nvml_without_a_driver_is_one_reason() -> None:
    pytest.importorskip("pynvml")
    with pytest.raises(EnergyUnavailable, match="NVML refuses"):
        nvml_handle(GPU)
    assert "NVML refuses" in gpu_state(GPU)["unavailable"]


def test_the_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['pynvml'] = None\n"
        "import torch\n"
        "from harness.energy import gpu_state\n"
        "print(gpu_state(torch.device('cuda', 0))['unavailable'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "NVML's Python package is missing: pip install nvidia-ml-py", done.stderr

"""Energy of a GPU: what NVML gives, what it denies, and that nothing is ever 0 J.

Where these run there is no GPU: the real pynvml calls a stand-in for NVML's library (nvml_stand_in.cpp),
whose GPU is told at each call what to deny.
"""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from segmeter.harness.machine.energy import EnergyUnavailable, gpu_state, nvml_handle
from tests.helpers.gpu_stand_in import build_nvml
from tests.helpers.places import ROOT

GPU = torch.device("cuda", 0)

# Every case in one process, as torch takes its time to be imported. Torch alone is told that there is a GPU.
READ = """
import json, os, types
import torch
from segmeter.harness.machine.energy import EnergyUnavailable, gpu_state, measure_energy

uuid = "01234567-89ab-cdef-0123-456789abcdef"
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(uuid=uuid)
torch.cuda.synchronize = lambda device=None: None
torch.cuda.is_initialized = lambda: True
gpu, own = torch.device("cuda", 0), os.getpid()

def read(seconds=0, denied="", step="1000", pids=""):
    os.environ.update(NVML_DENIED=denied, NVML_STEP=step, NVML_PIDS=pids)
    try:
        energy = vars(measure_energy(lambda: None, gpu, seconds=seconds))
    except EnergyUnavailable as error:
        energy = str(error)
    return {"energy": energy, "state": gpu_state(gpu)}

counter, power = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"
print(json.dumps({
    "all": read(),
    "no counter": read(0.1, denied=counter),
    "still counter": read(step="0"),
    "no energy": read(denied=f"{counter} {power}"),
    "no temperature": read(denied="nvmlDeviceGetTemperature"),
    "no processes": read(denied="nvmlDeviceGetComputeRunningProcesses_v3"),
    "nothing": read(denied="nvmlInitWithFlags"),
    "two others": read(pids=f"1 {own} 2"),
    "container": read(pids="400001 400002"),
}))
"""


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = build_nvml(tmp_path_factory.mktemp("nvml"))
    ran = [sys.executable, "-c", READ]
    done = subprocess.run(ran, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_counter_is_read_where_it_is_there(readings: dict[str, Any]) -> None:
    found = readings["all"]["energy"]
    # One call, and one reading of 1000 mJ between the two ends.
    assert (found["method"], found["calls"], found["joules_per_call"]) == ("total-energy counter", 1, 1.0)
    assert found["watts"] == pytest.approx(1.0 / found["seconds"])


def test_without_a_counter_power_is_sampled(readings: dict[str, Any]) -> None:
    found = readings["no counter"]["energy"]
    assert (found["method"], found["watts"]) == ("sampled power", 100.0)
    assert found["joules_per_call"] * found["calls"] == pytest.approx(100.0 * found["seconds"])


def test_nothing_to_read_is_a_reason_never_zero(readings: dict[str, Any]) -> None:
    assert readings["still counter"]["energy"].startswith("the energy counter did not move")
    assert readings["nothing"]["energy"] == "NVML refuses: Insufficient Permissions"
    assert readings["nothing"]["state"] == {"unavailable": "NVML refuses: Insufficient Permissions"}
    assert readings["no energy"]["energy"] == "this GPU reports neither total energy nor power"


def test_a_denied_reading_is_left_out_and_the_others_stay(readings: dict[str, Any]) -> None:
    whole = readings["all"]["state"]
    assert whole == {
        **{"driver": "580.1", "sm_mhz": 1980, "memory_mhz": 3201, "sm_max_mhz": 1980, "temperature_c": 61},
        **{"power_w": 100.0, "throttle_reasons": ["power cap"], "other_processes": 0},
    }
    for case, name in (("no temperature", "temperature_c"), ("no processes", "other_processes")):
        assert readings[case]["state"] == {key: value for key, value in whole.items() if key != name}


def test_one_of_nvmls_processes_is_this_one_whatever_its_number_there(readings: dict[str, Any]) -> None:
    assert readings["two others"]["state"]["other_processes"] == 2
    assert readings["container"]["state"]["other_processes"] == 1


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
        "from segmeter.harness.machine.energy import gpu_state\n"
        "print(gpu_state(torch.device('cuda', 0))['unavailable'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "NVML's Python package is missing: pip install nvidia-ml-py", done.stderr

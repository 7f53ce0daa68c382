"""The machine while it measures: clocks, temperature, throttling, and who else computes on it.

Read between rounds, on the measuring thread: a reading is in nobody's time and no thread of its own competes.
"""

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from segmeter.harness.machine.energy import gpu_state

EVERY_SECONDS = 0.5
# A process counts as busy from this share of one core on.
BUSY_CORES = 0.05
GAUGES = ("cpu_mhz", "cpu_temperature_c", "sm_mhz", "memory_mhz", "temperature_c", "power_w")


class Watch:
    """Readings from its making to :meth:`report`; call :meth:`read` between rounds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._gauges: dict[str, list[float]] = {}
        self._throttled: dict[str, int] = {}
        self._readings = 0
        self._unavailable = ""
        self._others_on_gpu: int | None = None
        self._begin, self._next = time.monotonic(), 0.0
        self._machine, self._own = machine_seconds(), own_seconds()
        self._processes = process_seconds()
        self._cpu_throttles = cpu_throttles()
        self._kernel, self._faults = os.times().system, page_faults()

    def read(self) -> None:
        """Take a reading, unless the last one is younger than half a second."""
        if time.monotonic() < self._next:
            return
        found: dict[str, Any] = {"cpu_mhz": cpu_mhz(), "cpu_temperature_c": cpu_temperature()}
        if self.device.type == "cuda":
            found |= gpu_state(self.device)
            self._unavailable = str(found.get("unavailable", ""))
            for reason in found.get("throttle_reasons", ()):
                self._throttled[reason] = self._throttled.get(reason, 0) + 1
            others = found.get("other_processes")
            if others is not None:
                self._others_on_gpu = max(others, self._others_on_gpu or 0)
        for name in GAUGES:
            if found.get(name) is not None:
                self._gauges.setdefault(name, []).append(float(found[name]))
        self._readings += 1
        self._next = time.monotonic() + EVERY_SECONDS

    def report(self) -> dict[str, Any]:
        """What was seen; what this system does not tell is None or absent.

        Returns:
            For each gauge its ``low``, ``median`` and ``high``; ``throttle_reasons`` with the readings that
            had them; ``other_busy_cores`` (mean number of cores that other processes kept busy),
            ``other_processes`` (how many used a twentieth of a core or more), ``stolen_cores`` (taken by
            the hypervisor), ``other_gpu_processes``; ``kernel_share`` (the kernel's part of this process's
            core seconds; None if there were none), ``page_faults_per_s``; ``readings``, ``seconds``.
        """
        seconds = max(time.monotonic() - self._begin, 1e-9)
        report: dict[str, Any] = {"readings": self._readings, "seconds": seconds}
        for name, values in self._gauges.items():
            report[name] = {"low": min(values), "median": median(values), "high": max(values)}
        report["throttle_reasons"] = dict(self._throttled)
        before, after = self._cpu_throttles, cpu_throttles()
        if before is not None and after is not None and after > before:
            report["throttle_reasons"]["processor too hot"] = after - before
        report["other_busy_cores"] = report["stolen_cores"] = report["other_processes"] = None
        machine = machine_seconds()
        if machine is not None and self._machine is not None:
            busy, stolen = (now - then for now, then in zip(machine, self._machine, strict=True))
            # Ticks of a hundredth of a second: a short measurement may come out a little below zero.
            report["other_busy_cores"] = max(0.0, (busy - (own_seconds() - self._own)) / seconds)
            report["stolen_cores"] = stolen / seconds
        if self._processes:
            used = {pid: now - self._processes.get(pid, 0.0) for pid, now in process_seconds().items()}
            report["other_processes"] = sum(each / seconds >= BUSY_CORES for each in used.values())
        own = own_seconds() - self._own
        report["kernel_share"] = (os.times().system - self._kernel) / own if own else None
        faults = page_faults()
        if faults is not None and self._faults is not None:
            report["page_faults_per_s"] = (faults - self._faults) / seconds
        if self.device.type == "cuda":
            report["other_gpu_processes"] = self._others_on_gpu
            if self._unavailable:
                report["unavailable"] = self._unavailable
        return report


def cpu_mhz() -> float | None:
    """Mean clock of the cores, MHz: the kernel's frequency driver, else ``/proc/cpuinfo``."""
    current = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    speeds = [value / 1e3 for value in map(_number, current) if value is not None]
    if not speeds:
        lines = [line for line in _text("/proc/cpuinfo").splitlines() if line.startswith("cpu MHz")]
        speeds = [float(line.split(":")[1]) for line in lines]
    return sum(speeds) / len(speeds) if speeds else None


def cpu_temperature() -> float | None:
    """The hottest sensor of the processor, degrees Celsius."""
    found = []
    for sensor in Path("/sys/class/hwmon").glob("hwmon*"):
        if _text(sensor / "name").strip() in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            found += [v / 1e3 for v in map(_number, sensor.glob("temp*_input")) if v is not None]
    return max(found, default=None)


def cpu_throttles() -> int | None:
    """How often the cores have been slowed down for heat since the machine started."""
    counts = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    found = [int(value) for value in map(_number, counts) if value is not None]
    return sum(found) if found else None


def machine_seconds() -> tuple[float, float] | None:
    """Core seconds that all processes used, and that the hypervisor took, since the machine started."""
    head = _text("/proc/stat").partition("\n")[0].split()
    if len(head) < 9 or head[0] != "cpu":
        return None
    user, nice, system, _, _, interrupts, soft, stolen = (int(n) / _ticks() for n in head[1:9])
    return user + nice + system + interrupts + soft, stolen


def own_seconds() -> float:
    """Core seconds of this process and its threads."""
    return sum(os.times()[:2])


def page_faults() -> int | None:
    """Pages that the kernel has had to find for this process without reading a disk."""
    fields = _text("/proc/self/stat").rpartition(")")[2].split()
    return int(fields[7]) if len(fields) > 7 else None


def process_seconds() -> dict[int, float]:
    """Core seconds of every other process that can be seen; empty where there is no ``/proc``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # The name, in parentheses, may hold anything; the numbers follow it.
        fields = _text(folder / "stat").rpartition(")")[2].split()
        if len(fields) > 12 and int(folder.name) != os.getpid():
            found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _ticks()
    return found


def _ticks() -> float:
    return float(os.sysconf("SC_CLK_TCK"))


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""

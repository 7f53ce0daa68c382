"""Statistics, timing in turn, components that add up."""

import itertools
import platform
import random
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from segmeter.encoders.chain import Pixels
from segmeter.harness.machine.energy import EnergyUnavailable, measure_energy, throttle_names
from segmeter.harness.machine.memory import parameter_bytes, peak_memory
from segmeter.harness.machine.watch import Watch
from segmeter.harness.models.spec import parse_model
from segmeter.harness.profiling.clock import Plan, WarmUp, interleave, warm_up
from segmeter.harness.profiling.components import (
    Borders,
    ComponentTimer,
    component_memory,
    component_parameter_bytes,
    component_times,
)
from segmeter.harness.profiling.roofline import Peaks, component_work
from segmeter.harness.profiling.run import Settings
from segmeter.harness.profiling.statistics import COPY_ROUNDS, interval, speedup, summarise
from segmeter.harness.profiling.subjects import Subject, make_inputs, make_subject
from tests.helpers.places import ROOT

CPU = torch.device("cpu")


def drifting(generator: np.random.Generator, rounds: int, base: float) -> tuple[list[float], list[float]]:
    """Times of two calls on a machine whose speed wanders and jumps, and is the same within a round."""
    speed = np.exp(np.cumsum(generator.normal(0, 0.05, rounds)))
    noise = generator.lognormal(0, 0.05, (2, rounds))
    return list(100 * speed * noise[0]), list(100 / base * speed * noise[1])


def test_ratio_intervals_hold_each_others_medians_on_a_drifting_machine() -> None:
    generator = np.random.default_rng(1)
    found = [speedup(*drifting(generator, 20, base=1.31)) for _ in range(40)]
    pairs = [(a, b) for a in found for b in found if a is not b]
    held = sum(a.low <= b.median <= a.high for a, b in pairs) / len(pairs)
    assert held >= 0.9


def test_a_against_a_is_no_difference_and_a_real_one_is_seen() -> None:
    generator = np.random.default_rng(2)
    verdicts = [speedup(*drifting(generator, 20, base=1.0)).verdict for _ in range(40)]
    # The interval is wider than a 95 % confidence interval, so under 5 % of 40 are expected outside.
    assert verdicts.count("no difference") >= 37
    assert speedup(*drifting(generator, 20, base=1.31)).verdict == "faster"
    assert speedup(*drifting(generator, 20, base=0.7)).verdict == "slower"


def test_too_few_rounds_decide_nothing() -> None:
    assert speedup([2.0] * 4, [1.0] * 4).verdict == "no difference"
    assert speedup([2.0] * 5, [1.0] * 5).verdict == "faster"


def test_tails_are_given_only_where_the_samples_carry_them() -> None:
    assert summarise([1.0] * 9).p90 is None
    assert summarise([float(n) for n in range(10)]).p90 == pytest.approx(8.1)  # 0.9 x 9
    assert summarise([1.0] * 99).p99 is None
    assert summarise([1.0] * 100).p99 == 1.0


def test_statistics_are_the_same_for_the_same_samples() -> None:
    samples = [random.Random(3).gauss(10, 1) for _ in range(30)]
    assert interval(samples) == interval(samples)
    with pytest.raises(ValueError, match="at least one sample"):
        interval([])
    with pytest.raises(ValueError, match="same rounds"):
        speedup([1.0], [1.0, 2.0])


def test_calls_are_timed_in_turn_and_the_order_turns() -> None:
    seen: list[str] = []
    calls = [lambda: seen.append("a"), lambda: seen.append("b")]
    samples = interleave(calls, CPU, Plan(seconds=0, min_rounds=4, width=0))
    rounds = ["".join(seen[i : i + 2]) for i in range(0, 8, 2)]
    # Each call once a round, every second round backwards.
    assert {"".join(sorted(each)) for each in rounds} == {"ab"}
    assert all(there == back[::-1] for there, back in zip(rounds[::2], rounds[1::2], strict=True))
    assert [len(s) for s in samples] == [4, 4]


def test_no_call_always_runs_after_the_same_other_one() -> None:
    seen: list[int] = []
    calls = [lambda n=n: seen.append(n) for n in range(6)]
    interleave(calls, CPU, Plan(seconds=0, min_rounds=100, max_rounds=100, width=0))
    followed = {pair for pair in itertools.pairwise(seen)}
    # All 36, each call after itself included (where the order turns).
    assert len(followed) == 36


def test_what_comes_between_rounds_is_not_called_after_the_last() -> None:
    done: list[int] = []
    interleave([lambda: None], CPU, Plan(seconds=0, min_rounds=3, width=0), done.append)
    assert done == [1, 2]


@pytest.mark.parametrize("rounds", [10, 20, 30])
def test_intervals_of_few_blocks_hold_what_a_repeat_finds(rounds: int) -> None:
    # As was seen of two equal models: copies of them differ by 0.3 %, one round from the next by 1 %.
    generator = np.random.default_rng(4)

    def measured() -> list[float]:
        copies = np.repeat(generator.normal(0, 0.003, rounds // COPY_ROUNDS), COPY_ROUNDS)
        return list(np.exp(copies + generator.normal(0, 0.01, rounds)))

    found = [interval(measured()) for _ in range(300)]
    held = [a.low <= b.median <= a.high for a, b in itertools.permutations(found, 2)]
    # 95 % are promised; the share in 300 measurements scatters by about 1 %.
    assert np.mean(held) >= 0.93


def test_a_fresh_copy_gives_the_same_and_lies_elsewhere() -> None:
    settings = Settings((64, 64), plan=Plan(warm_up_seconds=0))
    with torch.inference_mode():
        inputs = make_inputs(settings, Pixels())
        subject = make_subject(parse_model("pro-scale@r50"), settings, inputs)
        before = subject.model
        was = before(inputs[0])
        subject.copy_afresh()
        now = subject.model(inputs[0])
    assert subject.copies == 1
    assert subject.timed is subject.eager
    places = [{p.data_ptr() for p in model.parameters()} for model in (before, subject.model)]
    assert not places[0] & places[1]
    assert torch.equal(was.masks, now.masks)


def test_a_model_that_cannot_be_copied_stays_where_it_is() -> None:
    class Held(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("not this one")

    model = Held(2, 2)

    def call() -> object:
        return model(torch.ones(1, 2))

    spec = parse_model("pro-scale@r50")
    subject = Subject(spec, model, call, call, WarmUp(1, 0.0, True), lambda moved: call)
    subject.copy_afresh()
    subject.copy_afresh()
    assert (subject.model, subject.timed, subject.copies) == (model, call, 0)


def test_warm_up_without_time_still_calls_once() -> None:
    calls: list[int] = []
    found = warm_up(lambda: calls.append(1), CPU, seconds=0)
    assert (len(calls), found.calls, found.stable) == (1, 1, False)


@pytest.mark.parametrize("bad", [{"min_rounds": 0}, {"seconds": -1}, {"min_rounds": 9, "max_rounds": 8}])
def test_a_plan_that_cannot_be_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Plan(**bad)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_every_moment_belongs_to_one_component() -> None:
    model, x = Pair(), torch.ones(8, 64)
    timer = ComponentTimer(model, CPU, depth=1)
    with torch.inference_mode():
        times = timer.run(lambda: model(x))
    assert timer.borders.places == ["first", "second"]
    assert set(times) == {"first", "second", "other"}
    assert all(ms >= 0 for ms in times.values())
    # The marks are one chain: first to last is the sum of all stretches.
    assert sum(times.values()) == pytest.approx((timer._marks[-1][0] - timer._marks[0][0]) / 1e6)
    assert not any(m._forward_hooks for m in model.modules())


def test_components_are_set_against_the_calls_around_them() -> None:
    model, x = Pair(), torch.ones(8, 64)
    with torch.inference_mode():
        times = component_times(ComponentTimer(model, CPU, depth=1), lambda: model(x), CPU, seconds=0.0)
    assert times.rounds == 3 and len(times.plain) == 4
    with_hooks = [sum(each) for each in zip(*times.samples.values(), strict=True)]
    around = [(before + after) / 2 for before, after in itertools.pairwise(times.plain)]
    # The record's raw samples are enough to find its figure again.
    assert times.sum_share.median == pytest.approx(
        statistics.median(hooked / plain for hooked, plain in zip(with_hooks, around, strict=True))
    )
    assert sum(times.share.values()) == pytest.approx(1)


def test_traffic_and_work_of_a_linear_layer() -> None:
    work = component_work(Pair().to("meta"), (8, 64), 4, depth=1)
    # 2 x 8 x 64 x 64 FLOPs; 8 x 64 inputs, 64 x 64 weights and 8 x 64 outputs of 4 bytes.
    assert work["first"].flops == 65_536
    assert work["first"].traffic_bytes == 4 * (512 + 4096 + 512)
    assert work["first"].activation_bytes == 4 * 512
    with torch.inference_mode():
        assert component_work(Pair().to("meta"), (8, 64), 4, depth=1) == work


def test_the_ridge_parts_compute_from_memory() -> None:
    peaks = Peaks(tflops=1.0, gbytes_per_s=100.0)
    assert peaks.ridge == 10.0  # 1e12 / 1e11
    assert [peaks.bound(i) for i in (9.9, 10.0)] == ["memory", "compute"]


def test_peak_memory_sees_what_a_call_takes_for_a_while() -> None:
    megabytes = 64
    figures, how = peak_memory(lambda: torch.ones(megabytes * 2**18).sum(), CPU)
    if figures["peak_rss_over_start_bytes"] is None:
        pytest.skip(how)
    # Pages come one by one, and others may be dropped meanwhile: all but an eighth must be seen.
    assert figures["peak_rss_over_start_bytes"] >= megabytes * 2**20 * 7 / 8
    assert parameter_bytes(Pair()) == 2 * 64 * 64 * 4


# Sixteen tensors of 64 MiB, one after the other, twice: the heap has found its size by the second time.
FAULTS = """
import sys, torch
from segmeter.harness.machine.memory import keep_freed_memory
from segmeter.harness.machine.watch import page_faults
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    before = page_faults()
    for _ in range(16):
        torch.ones(2**24)
print(page_faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting")
def test_memory_that_is_kept_is_not_asked_of_the_kernel_again() -> None:
    def faults(how: str) -> int:
        ran = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(ran, check=True, capture_output=True, text=True, cwd=ROOT).stdout)

    # A new tensor is 64 MiB of new pages, of 4 KiB or of 2 MiB (transparent huge pages); a kept one is none.
    assert faults("give back") >= 16 * 32
    assert faults("keep") < 32


# Two tensors of 4 MiB, and whether they lie in the heap, which is what is kept.
PLACES = """
import torch
from segmeter.harness.machine.memory import keep_freed_memory, lasting
assert keep_freed_memory()
weight = lasting(lambda: torch.ones(2**20))
passing = torch.ones(2**20)
lines = [line.split()[0] for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]")]
low, high = int(lines[0].partition("-")[0], 16), int(lines[-1].partition("-")[2], 16)
print(low <= weight.data_ptr() < high, low <= passing.data_ptr() < high)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting")
def test_what_lasts_lies_apart_from_the_memory_that_is_kept() -> None:
    # Weights strewn over the heap leave no hole for the largest tensors, and it grows with each copy.
    ran = [sys.executable, "-c", PLACES]
    said = subprocess.run(ran, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert said.split() == ["False", "True"]


def test_energy_is_refused_with_a_reason_never_zero() -> None:
    with pytest.raises(EnergyUnavailable, match="NVIDIA GPU; the device is cpu"):
        measure_energy(lambda: None, CPU)
    assert throttle_names(0x1) == []
    assert throttle_names(0x40) == ["hardware thermal slowdown"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"device": "cdua"}, "did you mean 'cuda'"),
        ({"dtype": "fp61"}, "did you mean 'fp16'"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"cuda_graph": True}, "needs --device cuda"),
        ({"keep_memory": True, "device": "cuda"}, "for --device cpu|no CUDA GPU"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings((64, 64), **bad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu_is_one_line() -> None:
    with pytest.raises(ValueError, match="no CUDA GPU is usable here"):
        Settings((64, 64), device="cuda")


def test_components_add_up_to_the_whole_within_five_percent() -> None:
    # Matrix products of some milliseconds: reading the clock at two borders takes microseconds. Each pair of
    # calls stands side by side and the median of up to 25 pairs is taken, so that a busy machine cancels; if
    # it was too busy for the median to be known to 5 %, the interval must hold 1.
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4)))
    x = torch.ones(256, 1024)
    with torch.inference_mode():
        found = component_times(ComponentTimer(model, CPU, 1), lambda: model(x), CPU, seconds=3)
    whole = found.sum_share
    assert abs(whole.median - 1) <= 0.05 or whole.low <= 1 <= whole.high
    assert sum(found.share.values()) == pytest.approx(1)
    assert found.crossings == 2 * 4  # into and out of four layers
    assert 0 < found.hook_share < 0.05


def test_component_memory_and_parameters_stand_where_they_are_used() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.expand(64 * 2**18, 1).contiguous().sum()  # 64 MiB for a moment

    model = nn.Sequential(nn.Linear(64, 1, bias=False), Wide())
    held = component_memory(Borders(model, 1), CPU, lambda: model(torch.ones(1, 64)))
    if not held:
        pytest.skip("the kernel's high-water mark cannot be reset here")
    # As above: all but an eighth must be seen, in the component that took it and in no other.
    assert held["1"]["peak_rss_over_start_bytes"] >= 56 * 2**20
    assert held["0"]["peak_rss_over_start_bytes"] <= 8 * 2**20
    weights = component_parameter_bytes(Borders(model, 1))
    assert weights == {"0": 64 * 4}


def test_a_busy_neighbour_is_seen() -> None:
    watch = Watch(CPU)
    # The neighbour computes for half a second of a core's time, however busy the machine is.
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    # And so does this process: of no time at all the kernel has no share.
    own = time.process_time()
    while time.process_time() < own + 0.2:
        pass
    watch.read()
    seen = watch.report()
    if seen["other_busy_cores"] is None:
        pytest.skip("no /proc/stat here")
    assert seen["readings"] == 1
    assert 0 <= seen["kernel_share"] <= 1 and seen["page_faults_per_s"] >= 0
    # The kernel counts in hundredths of a second, on each of the cores.
    assert seen["other_busy_cores"] * seen["seconds"] >= 0.4

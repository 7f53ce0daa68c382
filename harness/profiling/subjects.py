"""The models of a measurement as calls: inputs in rotation, eager, compiled or as a CUDA graph."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.chain import Pixels
from segmeter.encoders.images import normalise
from segmeter.harness.export import RUNTIMES as OTHER_RUNTIMES
from segmeter.harness.export import (
    Session,
    check_packages,
    export,
    make_session,
    named_tensors,
    relative_errors,
)
from segmeter.harness.export import Settings as ExportSettings
from segmeter.harness.inputs import Size, find_photos, format_size, read_photo
from segmeter.harness.machine import is_out_of_memory, keeps_freed_memory, lasting
from segmeter.harness.models import ModelSpec, real_model
from segmeter.harness.profiling.clock import Plan, WarmUp, warm_up
from segmeter.words import nearest

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INPUTS = 4
# Of a runtime's outputs from eager's, over an output's largest entry: sums in another order, in float32, or
# the 11 and 8 bits of the half precisions, through a model's dozens of layers.
TOLERANCES = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 0.2}
DEVICES = ("cpu", "cuda")
EAGER, COMPILE = "eager", "compile"
RUNTIMES = (EAGER, COMPILE, *OTHER_RUNTIMES)
METHOD = (
    "forward pass with post-processing, images already on the device; random weights; autocast for fp16 and "
    "bf16; warm-up until the median is stable; models timed in turn, in random order and back; four "
    "inputs in rotation; eager models are copied afresh every five rounds; intervals are 95 % repeat "
    "intervals, Student's t times the block bootstrap's standard error"
)


@dataclass(frozen=True)
class Settings:
    """What is held equal for all models of a measurement.

    Raises:
        ValueError: an unknown or absent device, an unknown dtype, a batch or thread number below 1.
    """

    padded_size: Size
    device: str = "cpu"
    dtype: str = "fp32"
    batch: int = 1
    threads: int | None = None
    compile: bool = False
    cuda_graph: bool = False
    keep_memory: bool = False
    images: tuple[Path, ...] = ()
    depth: int = 2
    plan: Plan = field(default_factory=Plan)
    runtimes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kind = self.device.partition(":")[0]
        if kind not in DEVICES:
            raise ValueError(f"unknown device {self.device!r}{nearest(kind, DEVICES)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}{nearest(self.dtype, list(DTYPES))}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if kind == "cuda" and not torch.cuda.is_available():
            built = torch.version.cuda or "none: this torch is built without it"
            raise ValueError(f"no CUDA GPU is usable here (torch's CUDA: {built}); use --device cpu")
        if self.cuda_graph and kind != "cuda":
            raise ValueError("--cuda-graph needs --device cuda")
        if self.keep_memory and kind != "cpu":
            raise ValueError("--keep-memory is for --device cpu; on CUDA torch keeps freed memory anyway")
        self._check_runtimes(kind)

    def _check_runtimes(self, kind: str) -> None:
        if self.compile and self.runtimes:
            raise ValueError("--compile is --runtime compile: give one of the two")
        for runtime in self.runtimes:
            if runtime not in RUNTIMES:
                raise ValueError(f"unknown runtime {runtime!r}{nearest(runtime, RUNTIMES)}")
        others = [runtime for runtime in self.runtimes if runtime in OTHER_RUNTIMES]
        if others and (kind != "cpu" or self.dtype != "fp32"):
            raise ValueError(f"--runtime {others[0]} is timed on --device cpu in --dtype fp32")
        for runtime in others:
            check_packages(runtime)
        if self.cuda_graph and others:
            raise ValueError(f"--cuda-graph does not go with --runtime {others[0]}")

    @property
    def chosen_runtimes(self) -> tuple[str, ...]:
        """The runtimes that each model is timed under, each once."""
        return tuple(dict.fromkeys(self.runtimes)) or (COMPILE if self.compile else EAGER,)

    @property
    def torch_device(self) -> torch.device:
        """With its index, which NVML and events need."""
        device = torch.device(self.device)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return device

    @property
    def tf32(self) -> str | None:
        """What a GPU works out in TF32 (10 bits of mantissa) though fp32 is asked for; None for nothing.

        By torch's defaults it is the convolutions. GPUs before Ampere (capability 8.0) have no TF32.
        """
        if self.torch_device.type != "cuda" or self.dtype != "fp32":
            return None
        if torch.cuda.get_device_capability(self.torch_device) < (8, 0):
            return None
        # These attributes come with the module that torch puts in the place of its own at import.
        cudnn: Any = torch.backends.cudnn
        parts = {
            "convolutions": cudnn.conv.fp32_precision,
            "matrix products": torch.backends.cuda.matmul.fp32_precision,
        }
        return " and ".join(name for name, precision in parts.items() if precision == "tf32") or None

    def record(self, spec: ModelSpec, runtime: str = EAGER) -> dict[str, Any]:
        """As plain data, with the model's own sizes."""
        return {
            "runtime": runtime,
            "device": self.device,
            "dtype": self.dtype,
            "tf32": self.tf32,
            "batch": self.batch,
            "padded_size": format_size(self.padded_size),
            "num_classes": spec.num_classes or None,
            "num_queries": spec.num_queries or None,
            "compile": runtime == COMPILE,
            "cuda_graph": self.cuda_graph,
            # Once memory is kept it is for the rest of the process, later measurements included.
            "keep_memory": self.keep_memory or keeps_freed_memory(),
            "inputs": "photos" if self.images else "random",
            "threads": torch.get_num_threads(),
            "method": METHOD,
        }


@dataclass
class Subject:
    """A model ready to be timed.

    Attributes:
        timed: one forward pass as it was asked for.
        eager: the same as the model is written, which hooks can watch.
        call_of: makes a forward pass of a model; None where the model must stay where it is, being compiled
            or captured there.
        copies: how often the model was copied afresh.
        runtime: one of :data:`RUNTIMES`.
        difference: of the runtime's outputs from eager's, largest over an output's largest entry; None where
            it is eager.
        note: how the runtime runs the model, where that is not as usual.
    """

    spec: ModelSpec
    model: nn.Module
    timed: Callable[[], object]
    eager: Callable[[], object]
    warm: WarmUp
    call_of: Callable[[nn.Module], Callable[[], object]] | None
    copies: int = 0
    runtime: str = EAGER
    difference: float | None = None
    note: str = ""

    def copy_afresh(self) -> None:
        """Go on with a copy of the model, weights and Python objects elsewhere in memory, called once.

        Two instances of one model differ steadily by up to about 1 %, by where in memory they happen to lie:
        a ratio of two single instances would hold that as if it were the models'.

        A model that cannot be copied, or for whose copy there is no memory, stays as it is.
        """
        if self.call_of is None:
            return
        try:
            model = lasting(self._copy)
            timed = self.call_of(model)
            timed()
        except Exception:
            # Whatever a model of the user's own raises. The record tells how many copies there were.
            self.call_of = None
            return
        self.model, self.timed, self.eager = model, timed, timed
        self.copies += 1

    def _copy(self) -> nn.Module:
        # Tensors of inference mode could not be copied within it as parameters are.
        with torch.inference_mode(False):
            return copy.deepcopy(self.model)


def make_inputs(settings: Settings, pixels: Pixels) -> list[Tensor]:
    """Four batches (B, 3, H, W), of photos normalised as ``pixels`` says or of seeded noise, on the device.

    Raises:
        ValueError: a photo that cannot be read.
    """
    height, width = settings.padded_size
    if settings.images:
        photos = itertools.cycle(find_photos(settings.images))
        batches = [
            torch.stack(
                [
                    normalise(read_photo(next(photos), (height, width)), pixels.mean, pixels.std)
                    for _ in range(settings.batch)
                ]
            )
            for _ in range(INPUTS)
        ]
    else:
        generator = torch.Generator().manual_seed(0)
        shape = (settings.batch, 3, height, width)
        batches = [torch.randn(shape, generator=generator) for _ in range(INPUTS)]
    return [batch.to(settings.torch_device) for batch in batches]


def make_subject(spec: ModelSpec, settings: Settings, inputs: list[Tensor], runtime: str = EAGER) -> Subject:
    """Build a model (weights from seed 0) in a runtime, captured if asked, and warm it up.

    Raises:
        ValueError: it cannot be built, does not run so, or gives other outputs than eager; told with the
            model's name.
    """
    device = settings.torch_device
    model = lasting(lambda: real_model(spec).to(device))
    eager = timed = _caller(model, inputs, settings)
    difference, note = None, ""
    try:
        chosen: Callable[..., Any] = model
        if runtime == COMPILE:
            chosen = torch.compile(model)
        elif runtime in OTHER_RUNTIMES:
            session = _exported(spec, settings, runtime)
            chosen, note = (lambda images: session([images])), session.note
        if settings.cuda_graph:
            timed = _graphed(chosen, inputs, settings)
        elif runtime != EAGER:
            timed = _caller(chosen, inputs, settings)
        if runtime != EAGER:
            difference = _difference(spec, model, chosen, settings, inputs[0], runtime)
        warm = warm_up(timed, device, settings.plan.warm_up_seconds)
    except Exception as error:
        # Whatever a model of the user's own, a compiler or a capture raises; memory has a word of its own.
        if is_out_of_memory(error):
            raise
        if isinstance(error, RuntimeRefusedError):
            raise ValueError(str(error)) from error
        asked = {
            "torch.compile": runtime == COMPILE,
            runtime: runtime in OTHER_RUNTIMES,
            "a CUDA graph": settings.cuda_graph,
        }
        ways = [way for way, wanted in asked.items() if wanted]
        under = " under " + " and ".join(ways) if ways else ""
        first = next(iter(str(error).strip().splitlines()), "no message")
        raise ValueError(
            f"{spec.title} does not run on {settings.device} in {settings.dtype} at "
            f"{format_size(settings.padded_size)}{under}: {type(error).__name__}: {first}"
        ) from error
    movable = timed is eager
    return Subject(
        spec,
        model,
        timed,
        eager,
        warm,
        (lambda moved: _caller(moved, inputs, settings)) if movable else None,
        runtime=runtime,
        difference=difference,
        note=note,
    )


class RuntimeRefusedError(Exception):
    """A runtime's outputs are not eager's; one line."""


def _exported(spec: ModelSpec, settings: Settings, runtime: str) -> Session:
    """The model in another runtime."""
    # What is made in inference mode cannot be traced; the seed makes the same weights again.
    with torch.inference_mode(False):
        made = export(spec, real_model(spec), ExportSettings(settings.padded_size, settings.batch))
    return make_session(runtime, made.content)


def _difference(
    spec: ModelSpec,
    model: nn.Module,
    chosen: Callable[..., Any],
    settings: Settings,
    images: Tensor,
    runtime: str,
) -> float:
    """How far a runtime's outputs are from eager's.

    Raises:
        RuntimeRefusedError: further than the tolerance.
    """
    expected = dict(named_tensors(_forward(model, images, settings)))
    found = [tensor for _, tensor in named_tensors(_forward(chosen, images, settings))]
    errors = dict(zip(expected, relative_errors(list(expected.values()), found), strict=True))
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= TOLERANCES[settings.dtype]:
        raise RuntimeRefusedError(
            f"{spec.title} under {runtime} is not timed: {worst} differs from eager's by {errors[worst]:.2g} "
            f"of its largest entry, more than {TOLERANCES[settings.dtype]:g}"
        )
    return errors[worst]


def _caller(model: Callable[..., Any], inputs: list[Tensor], settings: Settings) -> Callable[[], object]:
    rotation = itertools.cycle(inputs)
    return lambda: _forward(model, next(rotation), settings)


def _forward(model: Callable[..., Any], images: Tensor, settings: Settings) -> object:
    dtype = DTYPES[settings.dtype]
    if dtype == torch.float32:
        return model(images)
    # A cast kept from one call to the next would lie outside a captured graph.
    with torch.autocast(images.device.type, dtype, cache_enabled=not settings.cuda_graph):
        return model(images)


def _graphed(model: Callable[..., Any], inputs: list[Tensor], settings: Settings) -> Callable[[], object]:
    """Capture one call; every replay first copies the next input into the captured one."""
    fixed = inputs[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _forward(model, fixed, settings)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _forward(model, fixed, settings)
    rotation = itertools.cycle(inputs)

    def replay() -> None:
        fixed.copy_(next(rotation))
        graph.replay()

    return replay

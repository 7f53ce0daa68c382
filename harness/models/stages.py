"""A spec's model, built: on meta for counting, on the CPU with seeded weights for running.

Modules on meta are kept by their stage's key, so that models which share a backbone or a decoder share it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segmeter.encoders.chain import Model, Sizes, Stage, build_stages
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.meta_layouts import run_plainly
from segmeter.harness.models.spec import ModelSpec

SEED = 0


# What writes numbers into a parameter.
_FILLS = {
    torch.ops.aten.normal_.default,
    torch.ops.aten.uniform_.default,
    torch.ops.aten.zero_.default,
    torch.ops.aten.fill_.Scalar,
}


class _Building(TorchDispatchMode):
    """Parameters on meta get their shapes, and nothing is worked out or drawn for them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in the counter: nothing here is worth loading torch's compiler for."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args[0].is_meta:
            return args[0]
        return run_plainly(func, args, kwargs or {})


def meta_stages(spec: ModelSpec) -> list[tuple[Stage, nn.Module]]:
    """Each stage with its module on the meta device: structure without weights, in eval mode.

    Raises:
        ValueError: a model of the user's own cannot be built.
    """
    stages = spec.stages
    by_name = {stage.name: stage for stage in stages}
    return [(stage, stage_module(stage, tuple(by_name[name] for name in stage.needs))) for stage in stages]


@lru_cache(maxsize=512)
def stage_module(stage: Stage, needed: tuple[Stage, ...] = ()) -> nn.Module:
    """A stage's module on meta, made of the stages that it needs; equal stages have one module."""
    built = {each.name: stage_module(each) for each in needed}
    # Kept for all who ask: not as tensors of inference, whoever asks first.
    with torch.inference_mode(False), _Building(), torch.device("meta"):
        return stage.build(built).eval()


@lru_cache(maxsize=256)
def meta_model(spec: ModelSpec) -> nn.Module:
    """The whole model on meta; a model that is one stage without a name is that stage's module."""
    stages = meta_stages(spec)
    return _joined(spec, [stage for stage, _ in stages], [module for _, module in stages])


def real_model(spec: ModelSpec) -> nn.Module:
    """The whole model on the CPU in eval mode, with random weights from one seed.

    Raises:
        ValueError: a model of the user's own cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _joined(spec, spec.stages, build_stages(spec.stages))


def _joined(spec: ModelSpec, stages: Sequence[Stage], modules: Sequence[nn.Module]) -> nn.Module:
    if len(modules) == 1 and not stages[0].name:
        return modules[0].eval()
    return Model(stages, modules, spec.system.size_divisor, spec.system.pixels).eval()


def arguments(spec: ModelSpec, images: Tensor, sizes: Sizes) -> tuple[Any, ...]:
    """What the whole model is called with; a whole model of the user's own takes images alone."""
    return (images,) if spec.system.is_own_whole else (images, sizes.image, sizes.original)


@lru_cache(maxsize=256)
def find_components(spec: ModelSpec) -> Callable[[str], str]:
    """Module path of a full model -> dotted component."""
    return component_finder(meta_model(spec))


@lru_cache(maxsize=256)
def parameters(spec: ModelSpec) -> tuple[int, int]:
    """Number of parameters of the model, and of its encoder (0 where no stage is one)."""
    model = meta_model(spec)
    encoder = next((module for stage, module in meta_stages(spec) if stage.name == "encoder"), None)
    return number_of_parameters(model), number_of_parameters(encoder) if encoder else 0


def number_of_parameters(module: nn.Module) -> int:
    """Parameters of a module, a shared one once."""
    return sum(p.numel() for p in module.parameters())


def encoder_stage(spec: ModelSpec) -> Stage | None:
    """The stage that is an encoder on a backbone's maps; None where the model has none."""
    return next(
        (stage for stage in spec.stages if stage.name == "encoder" and "backbone" in stage.needs), None
    )


def encoder_on(spec: ModelSpec, channels: Mapping[str, int]) -> nn.Module:
    """A model's encoder alone, for maps of these channels, on the current default device.

    Raises:
        ValueError: the model has no encoder of its own.
    """
    stage = encoder_stage(spec)
    if stage is None:
        raise ValueError(f"{spec.encoder_title} has no encoder to take alone")
    return stage.build({"backbone": _Channels(channels)})


class _Channels(nn.Module):
    """Stands for a backbone whose channels alone are looked at."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)

"""How much faster transformers' models are with ``segmeter.accelerate``, as docs/accelerate.md tells it.

Run it as ``python benchmarks/accelerate_speed.py [HxW] [ROUNDS]``. Each model stands twice in memory, with
the same random weights, plain and accelerated; a layer, the part around it and the whole model run in turn on
one thread, whose processor time is told.
"""

import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import transformers
from torch import nn

import segmeter
from segmeter.harness.inputs import format_size, parse_size
from segmeter.harness.machine import cpu_name
from segmeter.harness.profiling.statistics import speedup

RESNET = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(backbone_config=transformers.ResNetConfig(**RESNET))
    return transformers.Mask2FormerForUniversalSegmentation(config)


def deformable_detr() -> nn.Module:
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"]),
        use_timm_backbone=False,
        backbone=None,
    )
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr_v2() -> nn.Module:
    return transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config())


def d_fine() -> nn.Module:
    return transformers.DFineForObjectDetection(transformers.DFineConfig())


# Name -> how it is built, and the part whose time deformable attention is most of.
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Mask2Former, R50": (mask2former, "model.pixel_level_module.decoder"),
    "Deformable DETR, R50": (deformable_detr, "model.encoder"),
    "RT-DETR v2, R50": (rt_detr_v2, "model.decoder"),
    "D-FINE": (d_fine, "model.decoder"),
}


def captured(model: nn.Module, path: str, images: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a module of the model is called with."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not seen:
            seen.append((args, kwargs))

    handle = model.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(pixel_values=images)
    finally:
        handle.remove()
    return seen[0]


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of processor time of a call: what others compute on a shared machine is not in it."""
    begin = time.process_time_ns()
    call()
    return (time.process_time_ns() - begin) / 1e6


def measure(name: str, images: torch.Tensor, rounds: int) -> list[str]:
    """The rows of one model."""
    build, around = MODELS[name]
    torch.manual_seed(0)
    plain = build().eval()
    fast = copy.deepcopy(plain)
    layer = segmeter.accelerate(fast).replaced[0].path
    rows = []
    for what, path in (("one layer", layer), (f"`{around}`", around), ("whole model", "")):
        args, kwargs = captured(plain, path, images) if path else ((), {"pixel_values": images})
        calls = [partial(model.get_submodule(path), *args, **kwargs) for model in (plain, fast)]
        times: list[list[float]] = [[], []]
        for turn in range(-1, rounds):
            # There and back, so that neither always runs after the other; the first round warms up.
            for index in (0, 1) if turn % 2 else (1, 0):
                taken = cpu_ms(calls[index])
                if turn >= 0:
                    times[index].append(taken)
        found = speedup(*times)
        medians = " | ".join(f"{median(each):.4g}" for each in times)
        interval = f"{found.low:.2f} to {found.high:.2f}"
        rows.append(f"| {name} | {what} | {medians} | {found.median:.2f} | {interval} |")
    return rows


def main(size: str = "512x512", rounds: str = "10") -> int:
    """Print the table."""
    torch.set_num_threads(1)
    images = torch.randn(1, 3, *parse_size(size), generator=torch.Generator().manual_seed(0))
    print(
        f"{cpu_name()}, one thread, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{format_size(parse_size(size))}, batch 1, float32, {rounds} rounds"
    )
    print("| model | what | plain, ms | accelerated, ms | times faster | 95 % interval |")
    print("|---|---|---|---|---|---|")
    with torch.inference_mode():
        for name in MODELS:
            print(*measure(name, images, int(rounds)), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""What changes a model's count without a word: found in the model, said in one line each."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from segmeter.harness.counting.counter import Count, count_call
from segmeter.harness.counting.flow import Flow, Step
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import (
    ModelSpec,
    as_training_starts,
    inputs_of,
    mask_probabilities,
    meta_model,
    model_of,
    small_values,
    tensors_in,
)

GIGA = 1e9
# Methods by which a block turns its branches into one convolution.
MERGES = ("reparameterize", "switch_to_deploy", "fuse_convs_and_norms")
# Share of all work from which on work that is the same for all images is told, and modules named at most.
SAID_FROM, NAMED = 1e-3, 3


def traps_of(spec: ModelSpec, size: ImageSize, counted: Count) -> list[str]:
    """One line for each condition that changes the count of a model; figures are GMACs of ``macs``.

    Args:
        spec: the model.
        size: where it was counted.
        counted: its work there, on meta.
    """
    model = meta_model(spec)
    return [
        *_masked_attention(model, size, counted),
        *_branches(model, size, counted),
        *_batch_norms(counted),
        *_data_flow(spec, model, size, counted),
        *_drops(model),
        *_remembers(model, counted),
        *_proportions(spec, size),
        *own_resize(model),
    ]


def _count(model: nn.Module, size: ImageSize) -> Count:
    images = torch.empty((1, 3, *size.padded), device="meta")
    return count_call(model, lambda: model(images))[1]


def _masked_attention(model: nn.Module, size: ImageSize, counted: Count) -> Iterator[str]:
    if mask_probabilities(model):
        with as_training_starts(model):
            training = _count(model, size)
        yield (
            "attn_mask_probs is 0, as inference after training has it; as built it is 1, and predicts masks "
            f"before each of the last blocks: {training.macs / GIGA:.2f} instead of {counted.macs / GIGA:.2f}"
        )


def _branches(model: nn.Module, size: ImageSize, counted: Count) -> Iterator[str]:
    """Blocks that training gave several branches, which deployment turns into one convolution."""
    mergeable = [m for m in model.modules() if any(callable(getattr(m, name, None)) for name in MERGES)]
    kinds = sorted({type(module).__name__ for module in mergeable})
    if mergeable:
        merged = copy.deepcopy(model)
        with small_values(), torch.device("meta"):
            for module in list(merged.modules()):
                method = next((m for m in (getattr(module, name, None) for name in MERGES) if m), None)
                if callable(method):
                    method()
        yield (
            f"{', '.join(kinds)}: counted with the branches of training; merged into one convolution each: "
            f"{_count(merged, size).macs / GIGA:.2f} instead of {counted.macs / GIGA:.2f}"
        )
        return
    # transformers' blocks of RT-DETR and its kin have no such method: conv1 is 3x3, conv2 is 1x1.
    blocks = {
        path: type(m).__name__
        for path, m in model.named_modules()
        if "RepVgg" in type(m).__name__ and [_kernel(m, name) for name in ("conv1", "conv2")] == [3, 1]
    }
    if blocks:
        main, beside = (tuple(f"{path}.{name}." for path in blocks) for name in ("conv1", "conv2"))
        side = sum(work.macs for work in counted.work if work.module.startswith(beside))
        norms = sum(
            work.macs
            for work in counted.work
            if work.operator == "batch_norm" and work.module.startswith(main)
        )
        yield (
            f"{', '.join(sorted(set(blocks.values())))}: counted with the branches of training; merged into "
            f"one convolution each: {(counted.macs - side - norms) / GIGA:.2f} instead of "
            f"{counted.macs / GIGA:.2f}"
        )


def _kernel(block: nn.Module, name: str) -> int:
    """Side of the kernel of a block's convolution; 0 where it has none of this name."""
    convolutions = (m for m in getattr(block, name, nn.Identity()).modules() if isinstance(m, nn.Conv2d))
    return next((int(each.kernel_size[0]) for each in convolutions), 0)


def _batch_norms(counted: Count) -> Iterator[str]:
    norms = sum(work.macs for work in counted.work if work.operator == "batch_norm")
    if norms:
        yield f"batch norms are counted: {norms / GIGA:.2f}; deployment folds those that follow a convolution"


def _data_flow(spec: ModelSpec, model: nn.Module, size: ImageSize, counted: Count) -> Iterator[str]:
    """Work that no prediction is made from, and work that is the same for all images."""
    if counted.branches:
        return  # both sides of each were followed
    images = torch.empty((1, 3, *size.padded), device="meta")
    flow = Flow(images)
    output, _ = count_call(model, lambda: model(images), flow=flow)
    needed = flow.read_by(_predictions(spec, output))
    decided = flow.decided_by_image()
    unread: list[Step] = []
    resized: list[Step] = []
    fixed: list[Step] = []
    for number, step in enumerate(flow.steps):
        if step.macs and number not in needed:
            unread.append(step)
        elif step.macs and number not in decided:
            (resized if step.operator.startswith("upsample") else fixed).append(step)
    if unread:
        yield f"{_listed(unread)} run, and no prediction is made from what they give"
    if resized:
        yield f"{_listed(resized)} resize a table of weights at each call, which could be kept at this size"
    if sum(step.macs for step in fixed) > SAID_FROM * counted.macs:
        yield f"{_listed(fixed)} do not depend on the image: computed once, they could be kept"


def _predictions(spec: ModelSpec, output: object) -> list[Tensor]:
    """The outputs that the library's own post-processing reads; all of them where it says nothing."""
    library = model_of(spec)
    read = library.reads() if library else frozenset()
    if isinstance(output, Mapping) and read & output.keys():
        return list(tensors_in([output[name] for name in output if name in read]))
    return list(tensors_in(output))


def _listed(steps: list[Step]) -> str:
    """GMACs in all and of the largest modules, members of lists as one."""
    parts: dict[str, int] = {}
    for step in steps:
        path = ".".join("*" if name.isdigit() else name for name in step.module.split("."))
        parts[path] = parts.get(path, 0) + step.macs
    largest = sorted(parts, key=lambda path: -parts[path])
    named = [f"{path or 'the model itself'} {parts[path] / GIGA:.3g}" for path in largest[:NAMED]]
    more = f" and {len(largest) - NAMED} more" if len(largest) > NAMED else ""
    return f"{sum(parts.values()) / GIGA:.3g} GMACs ({', '.join(named)}{more})"


def _drops(model: nn.Module) -> Iterator[str]:
    """Layers that drop at random, although the model is counted as at inference."""
    kinds = (nn.modules.dropout._DropoutNd,)
    at_work = [
        path
        for path, each in model.named_modules()
        if each.training and (isinstance(each, kinds) or type(each).__name__ == "DropPath")
    ]
    if at_work:
        yield (
            f"dropout stays in training mode ({len(at_work)}x, {at_work[0]} the first): it costs no "
            "multiply-accumulates, and what is timed is not inference"
        )


def _remembers(model: nn.Module, counted: Count) -> Iterator[str]:
    """What is kept from call to call: keys and values of texts, memories of a video's frames."""
    config = getattr(model, "config", None)
    for name, part in [("", config), ("text_config", getattr(config, "text_config", None))]:
        if getattr(part, "is_decoder", False) and getattr(part, "use_cache", False):
            yield (
                f"{name or 'config'}.use_cache keeps keys and values (kv-cache): counted is the first call, "
                "later ones add a token each and cost less"
            )
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        idle = not any(f"{w.module}.".startswith(f"{path}.") for w in counted.work if w.macs)
        if name in ("memory_attention", "memory_encoder") and idle and any(True for _ in module.parameters()):
            yield f"{path} did not run: the count is a first frame's, and later frames of a video cost more"


def _proportions(spec: ModelSpec, size: ImageSize) -> Iterator[str]:
    inputs = inputs_of(spec)
    if inputs is not None and inputs.keeps_proportions and inputs.size == size.padded:
        yield (
            f"the input's size follows the photo's proportions: {format_size(size.padded)} is one photo's, "
            "--dataset gives a data set's mean"
        )


def own_resize(model: nn.Module) -> Iterator[str]:
    """A line if the model resizes its images before it convolves them."""
    for module in model.modules():
        if type(module).__name__ == "GeneralizedRCNNTransform":
            least = getattr(module, "min_size", ("?",))[-1]
            fixed = getattr(module, "fixed_size", None)
            to = f"{fixed[1]}x{fixed[0]}" if fixed else f"a short side of {least}, {module.max_size} at most"
            yield f"the model resizes its images itself, to {to}: the size given is not what is convolved"

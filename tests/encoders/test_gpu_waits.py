"""Nothing in a forward pass makes the host wait for a GPU, so that launches run ahead and can be captured."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import meta_model, real_model

MODELS = [
    *(f"{encoder}@{backbone}" for encoder in ("m2f", "lite-m2f", "rt-m2f") for backbone in ("r50", "swin-t")),
    *(f"pro-scale@{backbone}" for backbone in ("r50", "swin-t", "mvit-t")),
]
# Reading a value from the GPU; all of them stop a fake tensor too.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")


class Crossings(TorchDispatchMode):
    """Operators that read from the GPU, or move between it and the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
        name = func.overloadpacket.__name__
        if devices >= {"cpu", "cuda"} or name in READS:
            self.found[name] += 1
        return out


def weights(model: torch.nn.Module) -> Iterator[tuple[dict[str, Tensor | None], str, Tensor]]:
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            yield from ((own, name, tensor) for name, tensor in own.items() if tensor is not None)


@pytest.mark.parametrize("text", MODELS)
def test_a_forward_pass_crosses_to_the_gpu_with_its_levels_only(text: str) -> None:
    spec = parse_model(text)
    # A copy: the model itself is kept for whoever counts it next.
    model = copy.deepcopy(meta_model(spec))
    # Fake tensors say that they lie on a GPU, and follow its rules where there is none.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        for own, name, tensor in list(weights(model)):
            own[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
        with Crossings() as crossings:
            output = model(torch.empty(2, 3, 64, 64, device="cuda"))
    assert output.masks.device.type == "cuda"
    # RT-M2F has no deformable attention. The others' sizes and starts are kept for a real GPU's next pass.
    assert sum(crossings.found.values()) == (0 if spec.encoder == "rt-m2f" else 2), crossings.found


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("text", MODELS)
def test_the_second_pass_on_a_gpu_waits_for_nothing(text: str) -> None:
    model = real_model(parse_model(text)).cuda()
    first, second = torch.randn(2, 1, 3, 64, 64, device="cuda")
    with torch.inference_mode():
        model(first)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(second)
        finally:
            torch.cuda.set_sync_debug_mode("default")

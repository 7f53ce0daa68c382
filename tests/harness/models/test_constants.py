"""Constants keep their values on meta: what a forward pass looks at, and what it must not see."""

import pytest
import torch
from torch import Tensor, nn

from segmeter.harness.counting import DataDependentError, run_and_count
from segmeter.harness.models import meta_copy


class Reads(nn.Module):
    """Runs its layer as often as a buffer says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)
        self.register_buffer("times", torch.tensor([0, 3, 0]))

    def forward(self, x: Tensor) -> Tensor:
        sizes = torch.empty((2, 2), dtype=torch.long, device=x.device)
        sizes[0, 0], sizes[0, 1], sizes[1] = x.shape[0], 2, torch.tensor([3, 4], device=x.device)
        assert sizes.prod(1).tolist() == [2 * x.shape[0], 12]
        mask = torch.ones(x.shape, device=x.device, dtype=torch.bool)
        assert mask.all() and x.new_tensor([1.5]).item() == 1.5
        for _ in range(int(self.times.max())):
            x = self.layer(x)
        # Rows that are all zero, whichever they are: only written to.
        mask[torch.where(x.sum(-1) == 0)] = False
        return x * mask + torch.full((8,), 2.0) + torch.arange(8, device=x.device)


def test_a_constant_keeps_its_values_on_meta() -> None:
    model = Reads().eval()
    real = run_and_count(model, torch.rand(5, 8))[1]
    on_meta = run_and_count(meta_copy(model), torch.empty(5, 8, device="meta"))[1]
    assert on_meta.macs == real.macs == 3 * 5 * 8 * 8
    assert on_meta.flops == real.flops


def test_a_large_constant_is_shapes_alone() -> None:
    model = nn.Module()
    model.forward = lambda x: x + torch.ones(2**23, device=x.device).sum()
    assert run_and_count(model, torch.empty(4, device="meta"))[0].is_meta


class Asks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


def test_the_line_that_reads_the_image_is_named() -> None:
    with pytest.raises(DataDependentError, match=r"the model itself calls .* in test_constants.py:\d+"):
        run_and_count(nn.ModuleDict({"asks": Asks()})["asks"], torch.empty(3, device="meta"))

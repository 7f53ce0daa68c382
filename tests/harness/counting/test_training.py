"""One step of training: equal to torch's counter, by closed forms, and what is kept and run again."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from segmeter.cuda_ops import ms_deform_attn
from segmeter.harness.api import count
from segmeter.harness.counting import count_training, train_model, training_record
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import inputs_of, meta_model, parse_model, small_values, tensors_in
from tests.helpers.hugging_face import folder

SMALL = ImageSize((128, 128), (128, 128))


def flops_of_torch(model: nn.Module, images: Tensor) -> int:
    model = copy.deepcopy(model).train()
    mode = FlopCounterMode(display=False)
    with small_values() as values, mode:
        loss = torch.stack([t.sum() for t in tensors_in(model(images)) if t.requires_grad]).sum()
        values.makes_constants = False
        loss.backward()
    return mode.get_total_flops()


@pytest.mark.parametrize(
    "text",
    [
        *("m2f@r50", "lite-m2f@r50", "rt-m2f@r50", "pro-scale@r50"),
        *("timm:resnet18", "timm:vit_tiny_patch16_224", "timm:resnetv2_50", "hf:detr", "hf:mask2former"),
    ],
)
def test_forward_and_backward_equal_torchs_counter(text: str, tmp_path: Path) -> None:
    name = folder(tmp_path, text.partition(":")[2]) if text.startswith("hf:") else text
    spec = parse_model(name, own=True)
    inputs = inputs_of(spec)
    size = ImageSize(inputs.size, inputs.size) if inputs and not text.startswith("hf:") else SMALL
    step = train_model(spec, size)
    images = torch.empty((1, 3, *size.padded), device="meta")
    assert 2 * (step.forward.total() + step.backward.total()) == flops_of_torch(meta_model(spec), images)
    # The rows of the record are the total.
    rows = training_record(spec, step)
    for column in ("forward_gmacs", "backward_gmacs", "kept_bytes", "trained_params"):
        assert sum(row[column] for row in rows["components"].values()) == pytest.approx(rows["total"][column])


def test_a_chain_of_layers_by_hand() -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False)).to("meta")
    x = torch.empty(5, 8, device="meta")
    step = count_training(model, lambda m: m(x))
    first, second = 5 * 8 * 16, 5 * 16 * 4
    assert step.forward == {"0": first, "1": second}
    # Both gradients of the second; the first needs none for the input.
    assert step.backward == {"0": first, "1": 2 * second}
    # The input, and what the first layer gave: four bytes an element.
    assert step.kept.total() == 4 * (5 * 8 + 5 * 16)
    assert step.optimiser_macs() == 6 * (8 * 16 + 16 * 4)
    frozen = count_training(model, lambda m: m(x), lambda path: path.startswith("0"))
    # A frozen first layer costs no gradients at all, and nothing need be kept of its input.
    assert frozen.backward == {"1": second} and frozen.trained == {"1": 16 * 4}
    assert frozen.kept.total() == 4 * 5 * 16


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_grouped_convolution_goes_back_at_what_it_went_forward() -> None:
    # torch's counter takes the weight's gradient for a convolution without groups.
    step = count_training(Grouped().to("meta"), lambda m: m(torch.empty(1, 8, 6, 6, device="meta")))
    macs = 8 * 6 * 6 * (8 // 4) * 9
    assert (step.forward.total(), step.backward.total()) == (macs, macs)


@pytest.mark.parametrize("text", ["hf:SegformerForSemanticSegmentation", "hf:EomtForUniversalSegmentation"])
def test_grouped_convolutions_are_all_that_torchs_counter_takes_otherwise(text: str) -> None:
    spec = parse_model(text, own=True)
    inputs = inputs_of(spec)
    assert inputs is not None
    step = train_model(spec, ImageSize(inputs.size, inputs.size))
    # torch's counter multiplies all inputs' channels with all outputs' for the weight's gradient, `groups`
    # times the products there are. Only where a gradient arrives: EoMT's mask predictions before its last
    # blocks go through a comparison, which has none.
    excess = 0

    def note(module: nn.Conv2d, args: tuple[Tensor], output: Tensor) -> None:
        macs = output.numel() * module.weight[0].numel()

        def arrived(gradient: Tensor) -> None:
            nonlocal excess
            excess += (module.groups - 1) * macs

        if output.requires_grad:
            output.register_hook(arrived)

    model = copy.deepcopy(meta_model(spec))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    theirs = flops_of_torch(model, torch.empty((1, 3, *inputs.size), device="meta"))
    assert excess > 0
    assert 2 * (step.forward.total() + step.backward.total() + excess) == theirs


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(1, 20, 2, 4))
        self.places = nn.Parameter(torch.empty(1, 7, 2, 1, 3, 2))
        self.weights = nn.Parameter(torch.empty(1, 7, 2, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        shapes = torch.tensor([[4, 5]], device=x.device)
        starts = torch.tensor([0], device=x.device)
        return ms_deform_attn(self.value, shapes, starts, self.places, self.weights)


def test_the_op_goes_back_by_its_closed_form() -> None:
    step = count_training(Deformable().to("meta"), lambda m: m(torch.empty(1, device="meta")))
    sampled = 1 * 7 * 2 * 1 * 3 * 4  # batch, queries, heads, levels, points, channels per head
    assert (step.forward.total(), step.backward.total()) == (5 * sampled, 16 * sampled)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).detach())


def test_what_is_detached_costs_nothing_backwards() -> None:
    step = count_training(Detached().to("meta"), lambda m: m(torch.empty(3, 4, device="meta")))
    assert step.backward == {"head": 3 * 6 * 2}


class Blocks(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(4)
        )
        self.stem, self.checkpointed = nn.Linear(8, 8), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return x


def test_checkpointing_runs_again_what_torchs_checkpoint_runs_again() -> None:
    images = torch.empty(16, 8, device="meta")
    step = count_training(Blocks().to("meta"), lambda m: m(images))
    assert step.blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert step.recomputed == 4 * 2 * 16 * 8 * 32
    mode = FlopCounterMode(display=False)
    # Without the shortcut that ends a block's second run at the last tensor that is needed of it.
    with mode, set_checkpoint_early_stop(False):
        Blocks(checkpointed=True).to("meta")(images).sum().backward()
    plain = step.forward.total() + step.backward.total()
    assert mode.get_total_flops() == 2 * (plain + step.recomputed)
    # Of each block its input; of one, at a time, what its layers keep: its first layer's output, GELU's.
    block = 4 * 16 * 32 * 2
    assert step.kept.total() == 4 * 16 * 8 + 4 * (4 * 16 * 8 + block)
    assert step.kept_with_checkpointing == 4 * 16 * 8 + 4 * (4 * 16 * 8) + 4 * 16 * 8 + block


def test_freezing_a_component_of_a_model() -> None:
    spec = parse_model("m2f@r50")
    whole, frozen = train_model(spec, SMALL), train_model(spec, SMALL, ["backbone"])
    assert whole.forward == frozen.forward
    assert not any(path.startswith("backbone") for path in frozen.backward)
    assert all(frozen.backward[path] == macs for path, macs in whole.backward.items() if "decoder" in path)
    with pytest.raises(ValueError, match=r"no part 'backbon' to freeze; did you mean 'backbone'\?"):
        train_model(spec, SMALL, ["backbon"])


def test_the_api_counts_backward() -> None:
    counted = count(nn.Linear(8, 16, bias=False), (4, 8), backward=True)
    assert counted.training is not None
    assert counted.training.backward.total() == counted.training.forward.total() == counted.macs == 512

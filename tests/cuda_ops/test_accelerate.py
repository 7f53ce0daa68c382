"""Other libraries' deformable attention on the op: same outputs, same gradients, and all of it undone."""

import copy
import importlib
import importlib.util
import io
import pickle
import pickletools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import segmeter
from segmeter import ops
from segmeter.cuda_ops import families, reference
from tests.helpers.op_inputs import draw

transformers = pytest.importorskip("transformers")

from tests.helpers.deformable_models import MODELS, detr_like, mask2former, outputs  # noqa: E402

OP = ("segmeter.ms_deform_attn", "segmeter.ms_deform_attn_fused")


class Calls(TorchDispatchMode):
    """Names of the operators that run, with how often."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(func).removesuffix(".default")] += 1
        return func(*args, **(kwargs or {}))


def flat(model: nn.Module) -> torch.Tensor:
    """Gradients of what says where to look and how much to take; further up, norms of features that hardly
    differ in a fresh model multiply rounding without bound.
    """
    names = ("sampling_offsets", "attention_weights")
    found = [p.grad for n, p in model.named_parameters() if any(name in n for name in names)]
    return torch.cat([grad.flatten() for grad in found if grad is not None])


def built(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model in float64 and its inputs; skips one that this transformers has not."""
    torch.manual_seed(0)
    try:
        model = MODELS[name].build().eval().double()
    except AttributeError as error:
        pytest.skip(f"this transformers has no {name}: {error}")
    return model, MODELS[name].inputs()


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_stay_and_undo_gives_the_old_path_back(name: str) -> None:
    (model, inputs), layers = built(name), MODELS[name].layers
    for module in model.modules():
        if hasattr(module, "sampling_offsets"):
            # They begin on whole pixels, where the slope of a bilinear sample is either neighbour's.
            nn.init.uniform_(module.sampling_offsets.bias, 0.2, 0.8)
    keys = list(model.state_dict())
    before = outputs(model, inputs)
    before.square().sum().backward()
    gradients = flat(model)
    model.zero_grad()
    with segmeter.accelerate(model) as done:
        assert (len(done.replaced), done.kept) == (layers, [])
        # The op, and no grid_sample, is what runs.
        with Calls() as calls:
            after = outputs(model, inputs)
        assert sum(calls.names[name] for name in OP) == layers
        assert not any("grid_sampler" in name for name in calls.names)
        after.square().sum().backward()
        assert list(model.state_dict()) == keys
        with pytest.raises(ValueError, match="replaced already"):
            segmeter.accelerate(model)
        # In a lower precision the op finds what it takes, and stays about where it was.
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = outputs(model.float(), MODELS[name].inputs(torch.float32))
        assert low.isfinite().all() and low.shape == before.shape
        model.double()
    # Float32 sums in another order.
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    now = flat(model)
    torch.testing.assert_close(now, gradients, rtol=1e-3, atol=1e-5 * float(gradients.abs().max()))


@pytest.mark.parametrize("name", ["Mask2Former", "Deformable DETR", "RT-DETR v2", "D-FINE"])
def test_undo_gives_the_very_bits_back_and_copies_keep_their_way(name: str) -> None:
    model, inputs = built(name)
    classes = [type(module) for module in model.modules()]
    with torch.no_grad():
        before = outputs(model, inputs)
        with segmeter.accelerate(model):
            copied = copy.deepcopy(model)
        with Calls() as calls:
            torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=0)
        assert not any(calls.names[name] for name in OP)
        assert [type(module) for module in model.modules()] == classes
        # A copy stays accelerated, whatever becomes of the first, and runs on its own parameters.
        with Calls() as calls:
            torch.testing.assert_close(outputs(copied, inputs), before, rtol=1e-4, atol=1e-5)
        assert sum(calls.names[name] for name in OP) == MODELS[name].layers
        for parameter in copied.parameters():
            parameter.zero_()
        torch.testing.assert_close(outputs(model, inputs), before, rtol=0, atol=0)
        # Of one that has not run: transformers leaves hooks in some models that cannot be pickled.
        fresh, _ = built(name)
        segmeter.accelerate(fresh)
        file = io.BytesIO()
        torch.save(fresh, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        torch.testing.assert_close(outputs(loaded, inputs), before, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_given_back_to_whoever_asks_for_them() -> None:
    model, inputs = built("Mask2Former")
    inputs["output_attentions"] = True
    layer = model.model.pixel_level_module.decoder.encoder.layers[0].self_attn
    seen = []
    with torch.no_grad():
        expected = model(**inputs).attentions
        with segmeter.accelerate(model):
            for want, got in zip(expected, model(**inputs).attentions, strict=True):
                torch.testing.assert_close(got, want)
            del inputs["output_attentions"]
            with_hook = layer.register_forward_hook(lambda module, args, output: seen.append(output[1]))
            model(**inputs)
            with_hook.remove()
    assert seen[0].shape[-2:] == (3, 4)


@pytest.mark.parametrize("how", ["compiled", "exported"])
def test_an_accelerated_model_is_one_graph_with_the_op_in_it(how: str) -> None:
    torch.manual_seed(0)
    model = mask2former().eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), segmeter.accelerate(model):
        expected = model(pixel_values=image)
        if how == "compiled":
            torch._dynamo.reset()
            found = torch.compile(model, fullgraph=True, backend="eager")(pixel_values=image)
        else:
            program = torch.export.export(model, (), {"pixel_values": image})
            assert sum("ms_deform_attn" in str(node.target) for node in program.graph.nodes) == 2
            found = program.module()(pixel_values=image)
    # float32, with sums in another order.
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4)


def test_what_is_not_known_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="Linear has no deformable attention"):
        segmeter.accelerate(nn.Linear(2, 2))
    discrete = detr_like("RTDetrV2Config", "RTDetrV2ForObjectDetection", decoder_method="discrete")
    with pytest.raises(ValueError, match="takes the nearest token"):
        segmeter.accelerate(discrete)

    class MSDeformAttn(nn.Module):
        def forward(self, queries: torch.Tensor) -> torch.Tensor:
            return queries

    with pytest.raises(ValueError, match=r"it takes \(queries\)"):
        segmeter.accelerate(nn.Sequential(MSDeformAttn()))


def official_copy(layer: ops.MultiScaleDeformableAttention) -> nn.Module:
    """A module of the official codes' class name and call, which runs as slowly as they do on a CPU."""

    class MSDeformAttn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_heads, self.n_levels, self.n_points = layer.n_heads, layer.n_levels, layer.n_points
            for name, child in layer.named_children():
                setattr(self, name, child)

        def forward(
            self, query, reference_points, input_flatten, input_spatial_shapes, input_level_start_index,
            input_padding_mask=None,
        ):  # fmt: skip
            value = self.value_proj(input_flatten).unflatten(2, (self.n_heads, -1))
            grid = (self.n_heads, self.n_levels, self.n_points)
            offsets = self.sampling_offsets(query).unflatten(2, (*grid, 2))
            weights = self.attention_weights(query).unflatten(2, (self.n_heads, -1)).softmax(-1)
            sides = input_spatial_shapes.flip(-1)[None, None, None, :, None]
            places = reference_points[:, :, None, :, None] + offsets / sides
            return self.output_proj(
                reference.forward(value, input_spatial_shapes, places, weights.unflatten(3, grid[1:]))
            )

    return MSDeformAttn()


def test_the_layer_begins_as_the_official_one_and_agrees_with_its_call() -> None:
    torch.manual_seed(1)
    layer = ops.MultiScaleDeformableAttention(d_model=32, n_levels=2, n_heads=4, n_points=3)
    # Heads look right, down, left and up, a pixel further at each point.
    bias = layer.sampling_offsets.bias.detach().view(4, 2, 3, 2)
    torch.testing.assert_close(bias[0, 1, 2], torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(bias[1, 0, 0], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    shapes, starts = torch.tensor([[5, 7], [3, 4]]), torch.tensor([0, 35])
    query, tokens, points = torch.randn(2, 6, 32), torch.randn(2, 47, 32), torch.rand(2, 6, 2, 2)
    nn.init.normal_(layer.attention_weights.weight)
    copy = official_copy(layer)
    slow = copy(query, points, tokens, shapes, starts)
    torch.testing.assert_close(layer(query, points, tokens, shapes, starts), slow, rtol=1e-5, atol=1e-5)
    with segmeter.accelerate(nn.Sequential(copy)):
        torch.testing.assert_close(copy(query, points, tokens, shapes, starts), slow, rtol=1e-5, atol=1e-5)
    boxes = torch.cat([points, torch.rand(2, 6, 2, 2)], dim=-1)
    assert layer(query, boxes, tokens, shapes, starts).shape == (2, 6, 32)


def test_code_of_the_official_extension_finds_the_op() -> None:
    ops.install()
    try:
        extension = importlib.import_module("MultiScaleDeformableAttention")
        inputs = [t.float() if t.is_floating_point() else t for t in draw([(5, 7), (3, 4)]).plain()]
        found = extension.ms_deform_attn_forward(*inputs, 64)
        expected = reference.forward(inputs[0], inputs[1], *inputs[3:])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        grads = extension.ms_deform_attn_backward(*inputs, torch.ones_like(found), 64)
        wanted = reference.backward(torch.ones_like(found), inputs[0], inputs[1], *inputs[3:])
        for grad, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-4)
        assert ops.install() is extension
        # The kernels are told sizes and take pointers: what does not fit them is refused before.
        short = torch.ones(2, found.shape[1] - 1, found.shape[2])
        with pytest.raises(ValueError, match="grad_output must be"):
            extension.ms_deform_attn_backward(*inputs, short, 64)
        with pytest.raises(TypeError, match="grad_output must have value's dtype"):
            extension.ms_deform_attn_backward(*inputs, torch.ones_like(found).double(), 64)
        with pytest.raises(TypeError, match="sampling_locations must have value's dtype"):
            extension.ms_deform_attn_backward(inputs[0].double(), *inputs[1:], torch.ones_like(found), 64)
        with pytest.raises(ValueError, match="tokens in all"):
            extension.ms_deform_attn_backward(inputs[0][:, 1:], *inputs[1:], torch.ones_like(found), 64)
        with pytest.raises(ValueError, match="im2col_step must be at least 1"):
            extension.ms_deform_attn_forward(*inputs, 0)
    finally:
        ops.uninstall()
    assert "MultiScaleDeformableAttention" not in sys.modules


def test_an_installed_extension_is_not_replaced_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MultiScaleDeformableAttention.py").write_text("theirs = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.warns(UserWarning, match=r"in place of the installed extension .*Attention\.py"):
            ops.install()
        assert importlib.util.find_spec("MultiScaleDeformableAttention") is not None
        ops.uninstall()
        theirs = importlib.import_module("MultiScaleDeformableAttention")
        with pytest.raises(ValueError, match="already imported from"):
            ops.install()
        ops.uninstall()
        assert sys.modules["MultiScaleDeformableAttention"] is theirs
    finally:
        sys.modules.pop("MultiScaleDeformableAttention", None)


@pytest.mark.parametrize("name", ["Mask2Former", "D-FINE"])
def test_a_file_of_an_accelerated_model_needs_no_segmeter(name: str) -> None:
    model, _ = built(name)
    with segmeter.accelerate(model) as done:
        saved = pickle.dumps(model)
        assert len(done.replaced) == MODELS[name].layers
    assert not [code for code, arg, _ in pickletools.genops(saved) if arg and "segmeter" in str(arg)]
    assert not any(hasattr(type(module), families.MARK) for module in pickle.loads(saved).modules())


def test_what_is_no_module_is_said_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        segmeter.accelerate("model")  # type: ignore[arg-type]


SHARED = "MultiScaleDeformableAttention"
CLASSES = {
    "deformable_detr": SHARED,
    "grounding_dino": SHARED,
    "mm_grounding_dino": SHARED,
    "omdet_turbo": SHARED,
    "rt_detr": SHARED,
    "lw_detr": SHARED,
    "rf_detr": SHARED,
    "rt_detr_v2": "RTDetrV2MultiscaleDeformableAttention",
    "mask2former": "Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention",
    "oneformer": "OneFormerPixelDecoderEncoderMultiscaleDeformableAttention",
}


@pytest.mark.parametrize("library", CLASSES)
def test_every_layer_that_is_said_to_be_known_is_called_as_we_expect(library: str) -> None:
    try:
        module = importlib.import_module(f"transformers.models.{library}.modeling_{library}")
    except ImportError:
        pytest.skip(f"this transformers has no {library}")
    kind = getattr(module, CLASSES[library])
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    family = families.recognise(layer)
    assert family is not None and family.refuses(layer) == ""


def test_mask2formers_inference_by_rows_changes_no_output_and_no_input() -> None:
    torch.manual_seed(0)
    model, images = mask2former().eval(), torch.randn(2, 3, 96, 128)
    before, inputs = images.clone(), {"pixel_values": images}
    seen: list[torch.Tensor] = []
    layer = next(m for m in model.modules() if type(m).__name__ == "Mask2FormerPixelDecoderEncoderLayer")
    with torch.inference_mode():
        plain = outputs(model, inputs)
        with segmeter.accelerate(model) as done:
            assert done.around > 0 and type(layer.fc1) is nn.Linear
            found = outputs(model, inputs)
            handle = layer.fc1.register_forward_hook(
                lambda module, inputs, output: seen.append(output.clone())
            )
            watched = outputs(model, inputs)
            handle.remove()
        again = outputs(model, inputs)
    assert images.equal(before) and seen[0].lt(0).any()
    # Rounding of float32 through some ten layers.
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(watched, plain, rtol=1e-3, atol=1e-4)
    assert again.equal(plain)

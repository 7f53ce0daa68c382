"""``export``: the file computes what eager does, at sizes it was not traced at too; or none is written."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from segmeter.commands.main import main
from segmeter.cuda_ops import onnx_form
from segmeter.encoders.backbones import swin
from segmeter.harness.export import session
from segmeter.harness.export.traceable import reference_points, sizes_seen
from segmeter.harness.models import parse_model, real_model
from tests.helpers.hugging_face import folder, resnet

SOURCE = '''
import torch
from torch import nn
from segmeter import ops
from segmeter.encoders.parts.layers import DeformableEncoderLayer, Levels, to_maps, to_tokens


class Tiny(nn.Module):
    """Deformable attention of both kinds, around points and in boxes, on two levels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 8, stride=8)
        self.layer = DeformableEncoderLayer(32, 64, levels=2, heads=4)
        self.boxed = ops.MultiScaleDeformableAttention(32, 2, 4, 3)

    def forward(self, images):
        fine = self.conv(images)
        maps = [nn.functional.max_pool2d(fine, 2), fine]
        levels = Levels.of(maps)
        tokens = torch.cat([to_tokens(each) for each in maps], dim=1)
        tokens = self.layer(tokens, torch.zeros_like(tokens[:1]), levels)
        centres = levels.centres[None, :, None].expand(tokens.shape[0], -1, 2, -1)
        boxes = torch.cat([centres, torch.full_like(centres, 0.2)], dim=-1)
        tokens = self.boxed(tokens, boxes, tokens, levels.shapes, levels.starts)
        return {"maps": to_maps(tokens, levels)}


class Choosy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images) if images.sum() > 0 else images
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "tiny_for_export.py"
    path.write_text(SOURCE)
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    return int(stopped.value.code or 0)


def test_a_dynamic_export_is_eager_at_sizes_and_batches_it_was_not_traced_at(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = f"{source}:Tiny", tmp_path / "tiny.onnx"
    assert run("export", name, "--size", "64x96", "--dynamic", "--output", out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["inputs"] == [{"name": "images", "shape": ["batch", 3, "height", "width"]}]
    assert [each["name"] for each in record["outputs"]] == ["maps_0", "maps_1"]
    # Two calls of the op, on two levels each.
    assert (record["deformable_attention"], record["grid_samples"], record["fixed"]) == (2, 4, [])
    assert [check["size"] for check in record["checks"]] == ["64x96", "96x160"]
    # float32, with sums in another order.
    assert all(error < 1e-5 for check in record["checks"] for error in check["errors"].values())
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    images = torch.randn(3, 3, 32, 160, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = real_model(parse_model(name, own=True))(images)["maps"]
    found = onnxruntime.InferenceSession(out.read_bytes()).run(None, {"images": images.numpy()})
    for want, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_the_plugin_form_calls_tensorrts_plugin_with_what_it_takes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.onnx"
    assert run("export", f"{source}:Tiny", "--size", "64x96", "--plugin", "--output", out) == 0
    said = capsys.readouterr().out
    assert "2 nodes MultiscaleDeformableAttnPlugin_TRT" in said and "GridSample" not in said
    model = onnx.load(out)
    made = {output: node for node in model.graph.node for output in node.output}
    nodes = [node for node in model.graph.node if node.op_type == onnx_form.PLUGIN]
    assert len(nodes) == 2
    for node in nodes:
        assert len(node.input) == len(onnx_form.INPUTS) and len(node.output) == 1
        assert {each.name: each.s for each in node.attribute} == {
            "plugin_version": b"1",
            "plugin_namespace": b"",
        }
        # Sizes and starts in 32 bits, as the plugin takes them; folded or cast.
        constants = {each.name: each.data_type for each in model.graph.initializer}
        for name in node.input[1:3]:
            if name in constants:
                assert constants[name] == onnx.TensorProto.INT32
            else:
                assert made[name].op_type in ("Cast", "Constant")
    assert not any(node.op_type == "GridSample" for node in model.graph.node)


def test_a_file_that_differs_or_cannot_be_is_not_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.onnx"
    size = ("--size", "32x32", "--output", out)
    assert run("export", f"{source}:Tiny", *size, "--tolerance", "1e-12") == 2
    assert "beyond --tolerance 1e-12; nothing is written" in capsys.readouterr().err
    assert run("export", f"{source}:Choosy", *size) == 2
    said = capsys.readouterr().err
    assert "Choosy cannot be traced: " in said and said.count("\n") == 1
    assert run("export", "pro-scale@r50", *size, "--part", "encoders") == 2
    assert "PRO-SCALE has no stage 'encoders'; did you mean 'encoder'?" in capsys.readouterr().err
    assert run("export", "pro-scale@r50", "--output", tmp_path / "no" / "a.onnx") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_weights_than_one_file_holds_are_refused_before_tracing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segmeter.harness.export.run.MOST_BYTES", 1000)
    assert run("export", f"{source}:Tiny", "--size", "64x96", "--output", tmp_path / "t.onnx") == 2
    assert "GB of weights, an ONNX file of one piece at most" in capsys.readouterr().err
    assert run("export", f"{source}:Tiny", "--size", "64x96", "--output", tmp_path) == 2
    assert "it is a folder, expected a file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_version", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx, onnxscript and onnxruntime are not installed: pip install"):
        session.check_packages()
    monkeypatch.setattr(session, "_version", lambda name: None if name == "openvino" else "1")
    with pytest.raises(ValueError, match=r"openvino is not installed: pip install openvino$"):
        session.check_packages("openvino")


def test_mask2former_of_transformers_runs_at_sizes_and_batches_it_was_not_traced_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    few = {"encoder_layers": 1, "decoder_layers": 1, "backbone_config": resnet(depths=[1, 1, 1, 1])}
    name, out = folder(tmp_path / "config", "mask2former", **few), tmp_path / "m.onnx"
    assert run("export", name, "--size", "64x96", "--dynamic", "--output", out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["deformable_attention"] == 1 and record["kept_layers"] == record["fixed"] == []
    assert record["inputs"] == [{"name": "images", "shape": ["batch", 3, "height", "width"]}]
    assert [(check["size"], check["batch"]) for check in record["checks"]] == [("64x96", 1), ("96x160", 3)]
    # float32, with sums in another order.
    assert all(error < 1e-4 for check in record["checks"] for error in check["errors"].values())


def test_reference_points_that_follow_the_traced_sizes_are_those_of_the_library() -> None:
    transformers = pytest.importorskip("transformers")
    library = transformers.models.mask2former.modeling_mask2former.Mask2FormerPixelDecoderEncoderOnly
    sizes, shares = [(3, 5), (6, 9)], torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.6, 0.5], [0.7, 2 / 3]]])
    encoder = library(transformers.Mask2FormerConfig(encoder_layers=1, feature_size=32))
    expected = encoder.get_reference_points(sizes, shares, "cpu")
    with sizes_seen(encoder):
        assert encoder.get_reference_points is reference_points
        found = encoder.get_reference_points(sizes, shares, "cpu")
    torch.testing.assert_close(found, expected)
    assert "get_reference_points" not in vars(encoder)


@pytest.mark.parametrize("whose", ["ours", "the library's"])
def test_swins_windows_and_merging_are_traced_for_maps_of_any_size(whose: str) -> None:
    torch.manual_seed(0)
    block: nn.Module
    if whose == "ours":
        block, merging = swin.SwinBlock(32, 4, 2).eval(), swin.PatchMerging(32).eval()
    else:
        library = pytest.importorskip("transformers.models.swin.modeling_swin")
        config = library.SwinConfig(window_size=4, embed_dim=32)
        block = library.SwinLayer(config, 32, (8, 8), 1, shift_size=2).eval()
        merging = library.SwinPatchMerging(32).eval()

    class Both(nn.Module):
        """Tokens of a map of unequal, odd sides, twice."""

        def __init__(self) -> None:
            super().__init__()
            self.block, self.merging = block, merging

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if whose == "ours":
                return self.merging(self.block(x))
            size = (x.shape[1], x.shape[2])
            tokens = self.block(x.flatten(1, 2), size, always_partition=True)[0]
            return self.merging(tokens, size)

    both, auto = Both(), torch.export.Dim.AUTO
    with torch.no_grad(), sizes_seen(both):
        program = torch.export.export(
            both, (torch.randn(2, 9, 11, 32),), dynamic_shapes=({0: auto, 1: auto, 2: auto},), strict=False
        )
    assert not [name for module in both.modules() for name in vars(module) if name == "maybe_pad"]
    for size in ((7, 6), (8, 12), (13, 19)):
        maps = torch.randn(3, *size, 32)
        with torch.no_grad():
            torch.testing.assert_close(
                program.module(check_guards=False)(maps), both(maps), rtol=1e-5, atol=1e-5
            )


def test_profile_times_a_model_under_several_runtimes_and_never_compares_across_them_unsaid(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--padded-size", "32x32", "--threads", 1, "--seconds", 0.1, "--out", tmp_path / "runs")
    runtimes = ("--runtime", "eager", "--runtime", "onnxruntime")
    assert run("profile", f"{source}:Tiny", *runtimes, *few) == 0
    said = capsys.readouterr().out
    assert "Tiny in onnxruntime against Tiny in eager: " in said and "onnxruntime's differ from" in said
    eager, other = sorted(
        (json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()),
        key=lambda record: record["settings"]["runtime"],
    )
    assert [each["settings"]["runtime"] for each in (eager, other)] == ["eager", "onnxruntime"]
    assert eager["components"] and not other["components"]
    assert other["figures"]["output_difference"] < 1e-5 and eager["figures"]["output_difference"] is None
    assert other["ratios"][0]["baseline_runtime"] == "eager"
    assert run("compare", "--from", tmp_path / "runs", "--json") == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert sorted(g["settings"]["runtime"] for g in groups) == ["eager", "onnxruntime"]
    assert [len(group["rows"]) for group in groups] == [1, 1]
    assert all(row["times_faster"] is None for group in groups for row in group["rows"])
    assert run("profile", f"{source}:Tiny", "--runtime", "onnxruntim", *few) == 2
    assert "unknown runtime 'onnxruntim'; did you mean 'onnxruntime'?" in capsys.readouterr().err
    assert run("profile", f"{source}:Tiny", "--runtime", "onnxruntime", "--dtype", "bf16", *few) == 2
    assert "--dtype fp32" in capsys.readouterr().err


def test_openvino_computes_what_eager_does_and_is_timed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="pip install openvino (180 MB), which no other test needs")
    few = ("--padded-size", "32x32", "--threads", 1, "--seconds", 0.1, "--out", tmp_path / "runs")
    assert run("profile", f"{source}:Tiny", "--runtime", "openvino", *few) == 0
    assert "openvino's differ from" in capsys.readouterr().out
    record = json.loads(next((tmp_path / "runs").iterdir()).read_text())
    # float32, with sums in another order.
    assert 0 <= record["figures"]["output_difference"] < 1e-5

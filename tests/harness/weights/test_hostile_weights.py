"""Weights that fit by name and are none: told in one line, with what is wrong."""

import errno
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segmeter.commands.main import main
from segmeter.harness.models.spec import parse_model
from segmeter.harness.records.files import write_bytes
from segmeter.harness.weights.files import check_numbers, read_entries
from segmeter.harness.weights.names import rename
from segmeter.plain import one_line

SPEC = "pro-scale@r50:stages=1,1,1"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (torch.zeros(3, dtype=torch.complex64), "2 weights are no real numbers, e.g. b (complex64)"),
        (torch.zeros(3, dtype=torch.int8), "2 weights are no real numbers, e.g. b (int8)"),
        (torch.zeros(3, dtype=torch.bool), "2 weights are no real numbers, e.g. b (bool)"),
        (torch.full((3,), float("nan")), "2 weights hold NaN or infinity, e.g. b"),
        (torch.tensor([1.0, float("-inf")]), "2 weights hold NaN or infinity, e.g. b"),
        (torch.tensor(1e300, dtype=torch.float64), "2 weights hold NaN or infinity, e.g. b"),
        (torch.tensor(float("nan")).to(torch.float8_e4m3fn), "2 weights hold NaN or infinity, e.g. b"),
    ],
)
def test_numbers_that_are_no_weights_are_told(bad, told):
    with pytest.raises(ValueError) as raised:
        check_numbers("file", {"a": torch.ones(2), "b": bad, "c": bad})
    assert str(raised.value) == f"file: {told}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_good_weights_pass_in_every_precision(dtype):
    check_numbers("file", {"a": torch.ones(2).to(dtype), "empty": torch.empty(0, dtype=dtype)})


@pytest.fixture(scope="module")
def fitting() -> dict[str, torch.Tensor]:
    """A whole model's weights: each a view of one zero, which takes no memory."""
    from segmeter.harness.models.stages import meta_model

    entries = meta_model(parse_model(SPEC, num_classes=3, num_queries=5)).state_dict()
    return {name: torch.zeros(1).expand(entry.shape) for name, entry in entries.items()}


@pytest.mark.parametrize("value", [float("nan"), 1j])
def test_a_fitting_checkpoint_of_nonsense_is_not_converted(tmp_path, fitting, value, capsys):
    one = torch.tensor([value])
    torch.save({"model": {name: one.expand(t.shape) for name, t in fitting.items()}}, tmp_path / "model.pth")
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tmp_path / "model.pth"), str(tmp_path / "out.safetensors"), "--encoder", SPEC])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert "weights hold NaN" in said or "weights are no real numbers" in said
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "shapes",
    [((4, 4), (4, 4), (5, 4)), ((4, 4), (4,), (4, 4)), ((), (), ()), ((4, 4), (4, 5), (4, 4))],
)
def test_parts_of_one_entry_that_do_not_fit_together_are_told(shapes):
    at = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    names = [f"{at}.{part}.weight" for part in ("query", "key", "value")]
    entries = {name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=True)}
    with pytest.raises(ValueError, match="needs query, key and value of one shape"):
        rename("transformers", entries)


@pytest.mark.parametrize("encoder", [[], ["--encoder", "m2f"], ["--encoder", "m2f", "--backbone", "r50"]])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("content", ["none", "no rows", "scalars"])
def test_a_file_without_numbers_is_one_line(tmp_path, suffix, encoder, content, capsys):
    shape = (0, 256) if content == "no rows" else ()
    names = ["class_embed.weight", "query_feat.weight", "transformer_cross_attention_layers.0.norm.bias"]
    entries = {} if content == "none" else {f"decoder.{name}": torch.zeros(shape) for name in names}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({name: t.numpy() for name, t in entries.items()}))
    elif suffix == ".pth":
        torch.save(entries, path)
    else:
        save_file(entries, path)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(path), str(tmp_path / "out.safetensors"), *encoder])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert str(path) in said.err or "backbone" in said.err


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError) as raised:
        write_bytes(tmp_path / "out.safetensors", b"x")
    assert one_line(raised.value) == f"[Errno 28] No space left on device: '{tmp_path / 'out.safetensors'}'"
    assert list(tmp_path.iterdir()) == []


def test_no_advice_to_run_code_is_handed_on():
    said = (
        "Weights only load failed. This file can still be loaded, to do so you have two options, do those "
        "steps only if you trust the source of the checkpoint. (1) In PyTorch 2.6, we changed the default "
        "value of the `weights_only` argument in `torch.load` from `False` to `True`. Re-running it with "
        "`weights_only` set to `False` will likely succeed, but it can result in arbitrary code execution."
    )
    assert one_line(RuntimeError(f"net.py cannot be built: {said}")) == (
        "net.py cannot be built: Weights only load failed."
    )
    assert one_line(RuntimeError("Set weights_only=False to load it")) == "RuntimeError"


def test_numpy_s_own_kinds_are_weights_or_named(tmp_path):
    for kind, fits in ((np.float16, True), (np.complex64, False), (np.str_, False)):
        path = tmp_path / "model.pkl"
        path.write_bytes(
            pickle.dumps({"decoder.transformer_cross_attention_layers.0.norm.bias": np.zeros(2, kind)})
        )

        try:
            found = read_entries(path)
        except ValueError as error:
            assert not fits and "only numbers are read" in str(error)
        else:
            assert bool(found.tensors) == fits

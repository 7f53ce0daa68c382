"""The command line as a user runs it: its output, its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.in_process import here as run
from tests.helpers.places import ROOT


def test_help_lists_every_command() -> None:
    # In a process of its own, as a shell starts it.
    started = [sys.executable, str(ROOT / "cli.py"), "--help"]
    done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("models", "flops", "compare", "crosscheck", "reproduce", "report"):
        assert command in done.stdout


def test_flops_json_is_the_contract() -> None:
    done = run(
        *("flops", "--encoder", "pro-scale", "--stages", "3,3,3", "--pixel-embedding", "lpe"),
        *("--backbone", "swin-t", "--padded-size", "1024x2048", "--num-classes", 19),
        *("--num-queries", 100, "--convention", "published", "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["total_gmacs"] == pytest.approx(392.07, abs=0.005)
    parts = record["components"]
    assert set(parts) == {"backbone", "encoder", "decoder", "postprocess"}
    assert parts["encoder"]["gmacs"] == pytest.approx(135.35, abs=0.005)
    # A node is the sum of its parts, at every depth, and the parts are the total.
    assert sum(p["gmacs"] for p in parts.values()) == pytest.approx(record["total_gmacs"])
    inside = parts["encoder"]["parts"]
    assert {"input_projection", "deformable_attention", "ffn", "norms", "pixel_embedding"} <= set(inside)
    assert sum(p["gmacs"] for p in inside.values()) == pytest.approx(parts["encoder"]["gmacs"])
    assert {"value", "offsets", "weights", "output"} <= set(inside["deformable_attention"]["parts"])
    assert record["not_counted"]["deformable_sampling"] == pytest.approx(1.8623, abs=1e-4)
    assert record["convention"] == "published" and record["unit"] == "GMACs"
    assert record["padded_size"] == record["original_size"] == [1024, 2048]
    assert (record["params"], record["encoder_params"]) == (48790927, 6806465)
    assert 0.95 < record["coverage"] < 1
    assert {"torch", "timm", "fvcore"} <= set(record["versions"])


def test_flops_over_a_data_set_has_a_spread() -> None:
    done = run("flops", "m2f", "--dataset", "coco-val2017:100", "--json")
    record = json.loads(done.stdout)
    spread = record["spread"]["total"]
    # Printed 234.50.
    assert record["total_gmacs"] == spread["mean"] == pytest.approx(234.49, abs=0.005)
    assert spread["min"] < spread["mean"] < spread["max"] and spread["std"] > 0
    assert record["dataset"]["images"] == 100 and record["padded_size"] is None
    assert sum(p["gmacs"] for p in record["components"].values()) == pytest.approx(spread["mean"])


def test_flops_reads_like_a_table(tmp_path: Path) -> None:
    annotations = tmp_path / "some.json"
    annotations.write_text(json.dumps({"images": [{"height": 64, "width": 64}]}))
    done = run("flops", "pro-scale@r50", "--annotations", annotations, "--depth", 2, "--strict")
    assert done.returncode == 0
    for text in ("PRO-SCALE (3,3,3), R50", "pixel embedding", "convention", "published", "not counted"):
        assert text in done.stdout


def test_compare_is_against_the_first() -> None:
    done = run("compare", "m2f", "pro-scale:stages=1,1,1", "table2.2", "--json")
    content = json.loads(done.stdout)
    # Table 2: 311.90 against 537.80 is -42.00 %, the encoder's -80.38 %.
    change = content["changes"][1]["percent"]
    assert change["total"] == pytest.approx(-42.02, abs=0.01)
    assert change["encoder"] == pytest.approx(-80.39, abs=0.01)
    assert [m["encoder"] for m in content["models"]] == ["m2f", "pro-scale", "lite-m2f"]
    assert "PRO-SCALE" in run("compare", "m2f", "pro-scale").stdout


def test_crosscheck_leaves_nothing_unexplained() -> None:
    done = run("crosscheck", "rt-m2f@r50", "--padded-size", "128x128")
    assert done.returncode == 0, done.stderr
    assert "unexplained in all: 0 GMACs" in done.stdout
    for counter in ("fvcore", "ptflops", "torch"):
        assert counter in done.stdout


def test_reproduce_prints_measured_beside_published() -> None:
    done = run("reproduce", "--table", 7)
    assert "1949.70" in done.stdout and "16 stated size: reproduced" in done.stdout
    cells = json.loads(run("reproduce", "--table", 7, "--json").stdout)["cells"]
    assert len(cells) == 16 and all(c["verdict"] == "stated size" for c in cells)


def test_models_lists_what_can_be_named() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert set(listed["encoders"]) >= {"m2f", "lite-m2f", "rt-m2f", "pro-scale", "segmenter", "segformer"}
    assert {"r50", "r101", "swin-t", "swin-s", "swin-b", "swin-l", "mvit-t"} <= set(listed["backbones"])
    assert listed["presets"]["table2.4"]["model"] == "pro-scale@swin-t:stages=1,1,1"
    assert "Presets" in run("models").stdout


BAD = {
    "unknown encoder": (["flops", "--encoder", "m2ff"], "did you mean 'm2f'"),
    "no encoder": (["flops"], "no encoder given"),
    "unknown backbone": (["flops", "m2f@resnet-50"], "did you mean"),
    "other strides": (["flops", "m2f@vit_base_patch16_224"], "strides 16"),
    "unknown option": (["flops", "m2f", "--lyers", "3"], "No such option"),
    "unknown command": (["flop"], "Did you mean 'flops'"),
    "option of another encoder": (["flops", "m2f", "--stages", "1,1,1"], "did you mean 'layers'"),
    "zero stages": (["flops", "pro-scale", "--stages", "0,0,0"], "must not all be 0"),
    "malformed stages": (["flops", "pro-scale", "--stages", "3;3;3"], "such as 3,3,3"),
    "not HxW": (["flops", "m2f", "--padded-size", "1024"], "HEIGHTxWIDTH"),
    "zero size": (["flops", "m2f", "--image-size", "0x640"], "positive"),
    "absurd size": (["flops", "m2f", "--image-size", "99999999x32"], "at most 32768"),
    "off the grid": (["flops", "m2f", "--padded-size", "800x1066"], "did you mean 800x1088"),
    "two sizes": (["flops", "m2f", "--padded-size", "32x32", "--dataset", "cityscapes"], "give one of"),
    "unknown convention": (["flops", "m2f", "--convention", "mac"], "did you mean 'macs'"),
    "missing annotations": (["flops", "m2f", "--annotations", "/no/such.json"], "No such file"),
    "one model": (["compare", "m2f"], "two models"),
    "unknown table": (["reproduce", "--table", "12"], "nearest: 11"),
    "unknown form": (["reproduce", "--table", "2", "--format", "tex"], "unknown format 'tex'"),
    "missing photo": (["report", "--images", "/no/such.jpg"], "no such photo"),
    "not a photo": (["report", "--images", __file__], "not an image"),
    "unwritable folder": (["report", "--out", "/proc/segmeter"], "cannot write to folder"),
    "a file for a folder": (["report", "--out", __file__], "it is a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str) -> None:
    arguments, told = BAD[case]
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and told in done.stderr, done.stderr
    assert done.stdout == ""


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    process.wait()
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "arguments", [("models",), ("models", "--json"), ("flops", "m2f@r50", "--padded-size", "64x64")]
)
def test_output_that_a_full_disk_does_not_take_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (
        2,
        "segmeter: cannot write the output: No space left on device\n",
    )


@pytest.mark.parametrize(("backbone", "printed"), [("vit-s", "38.62"), ("vit-l", "671.8")])
def test_a_model_of_one_size_is_counted_at_it(backbone: str, printed: str) -> None:
    """The plain Segmenters print their paper's figures with nothing else said: ViT-L at 640, ViT-S at 512."""
    record = json.loads(run("flops", f"segmenter@{backbone}", "--json").stdout)
    assert f"{record['total_gmacs']:.4g}" == printed
    assert record["num_classes"] == 150

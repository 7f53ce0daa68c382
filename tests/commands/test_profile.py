"""``profile``, ``results`` and ``sweep`` as a user runs them: output and exit code."""

import json
import platform
from pathlib import Path

import pytest

from segmeter.commands.main import main
from tests.helpers.in_process import forked as run

QUICK = ("--padded-size", "64x64", "--threads", 1, "--seconds", 1, "--min-rounds", 5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records of two models and of the first again."""
    folder = tmp_path_factory.mktemp("runs")
    done = run("profile", "m2f@r50", "pro-scale@r50:stages=1,1,1", *QUICK, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "PRO-SCALE (1,1,1), R50 against M2F, R50" in done.stdout
    assert "95 % interval" in done.stdout and "not measured: energy is read by NVML" in done.stdout
    # What holds for all models is said once.
    assert [done.stdout.count(f"\n{word} ") for word in ("method", "energy", "components")] == [1, 1, 2]
    return folder


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting")
def test_kept_memory_is_said_beside_the_time(tmp_path: Path) -> None:
    few = ("--padded-size", "32x32", "--threads", 1, "--seconds", 0.1, "--out", tmp_path)
    done = run("profile", "rt-m2f@r50", "lite-m2f@r50", "--keep-memory", *few)
    assert done.returncode == 0, done.stderr
    assert "Measured at 32x32, batch 1, fp32, cpu, 1 thread, freed memory kept" in done.stdout
    beside = run("compare", "--from", tmp_path)
    assert "32x32, batch 1, fp32, cpu, 1 thread, freed memory kept" in beside.stdout
    assert "components add up to" in beside.stdout
    assert all(record["settings"]["keep_memory"] for record in records(tmp_path))


def records(folder: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda r: r["model"])


def test_a_profile_leaves_complete_records(measured: Path) -> None:
    m2f, pro_scale = records(measured)
    assert [m2f["model"], pro_scale["model"]] == ["m2f@r50", "pro-scale@r50:stages=1,1,1"]
    assert len(m2f["samples"]["latency_ms"]) == m2f["statistics"]["latency_ms"]["samples"] >= 5
    assert pro_scale["ratios"][0]["baseline"] == m2f["id"]
    assert m2f["figures"]["joules_per_image"] is None
    assert m2f["environment"]["op_implementation"]["name"] in ("reference", "cpu-kernel")
    assert m2f["settings"]["threads"] == 1


def test_component_times_add_up_to_a_call(measured: Path) -> None:
    for record in records(measured):
        parts = record["components"]
        assert {"encoder.deformable_attention", "encoder.ffn", "postprocess"} <= set(parts)
        # Shares are means over calls, each of which adds up to 1 but for rounding.
        assert sum(c["share"] for c in parts.values()) == pytest.approx(1)
        # Every component that has work has a time of its own: nothing is hidden in another's.
        assert all(c["ms"] > 0 for c in parts.values() if c.get("gflops"))
        rounds = int(record["figures"]["component_rounds"])
        for name, c in parts.items():
            assert len(record["samples"][f"component_ms.{name}"]) == rounds >= 3
            assert c["ms_low"] <= c["ms"] <= c["ms_high"] and c["ms_q25"] <= c["ms_q75"]
            # A tail needs ten samples.
            assert (c["ms_p90"] is None) == (rounds < 10)


def test_results_list_show_diff_export(measured: Path, tmp_path: Path) -> None:
    (measured / "bad.json").write_text("{")
    listed = run("results", "list", "--from", measured)
    (measured / "bad.json").unlink()
    assert listed.returncode == 0
    assert "M2F, R50" in listed.stdout
    assert "bad.json: not JSON" in listed.stderr
    first, second = (r["id"] for r in records(measured))
    shown = run("results", "show", first, "--from", measured)
    assert "deformable attention" in shown.stdout, shown.stderr
    compared = run("results", "diff", first, second, "--from", measured)
    assert compared.returncode == 0, compared.stdout
    assert "same environment" in compared.stdout
    out = tmp_path / "table.csv"
    assert run("results", "export", out, "--from", measured).returncode == 0
    assert out.read_text().count("\n") == 3  # a head and two records


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("profile", "m2f@r50", "--device", "cdua"), "unknown device 'cdua'; did you mean 'cuda'?"),
        (("profile", "m2f@r50", "--dtype", "fp61"), "did you mean 'fp16'?"),
        (("profile", "m2g"), "did you mean 'm2f'?"),
        (("profile", "m2f@r50", "--padded-size", "50x64"), "multiple"),
        (("profile", "m2f@r50", "--roofline", "x.gif"), "must end in .pdf"),
        (("profile", "m2f@r50", "--out", "/proc/none"), "/proc/none"),
        (("results", "list", "--from", "nowhere"), "nowhere is not a folder"),
        (("results", "show", "x", "--from", "results/sizes"), "no record 'x'"),
        (("sweep", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process: loading torch anew for every line would take most of a minute.
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert says in said
    assert said.count("\n") == 1


def test_a_sweep_measures_goes_on_and_says_what_is_done(tmp_path: Path) -> None:
    file, folder = tmp_path / "s.toml", tmp_path / "runs"
    file.write_text(
        '[grid]\nencoders = ["rt-m2f"]\nbackbones = ["r50"]\npadded_sizes = ["64x64"]\n'
        "[settings]\nseconds = 0.2\nthreads = 1\n"
    )
    first = run("sweep", file, "--out", folder)
    assert first.returncode == 0, first.stderr + first.stdout
    assert "1 of 1 cells measured" in first.stdout
    (path,) = folder.glob("*.json")
    before = path.read_bytes()
    again = run("sweep", file, "--out", folder)
    assert "1 cells, 0 to run" in again.stdout
    assert path.read_bytes() == before


MINE = """
from torch import nn
def build(width: int = 8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())
class Reads(nn.Sequential):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x
class Bad(nn.Sequential):
    def forward(self, x):
        raise KeyError("no such thing")
"""


def profiled(folder: Path, *arguments: object, code: int = 0) -> list[dict]:
    """Records of a profile in this process, of models so small that it takes a moment."""
    (folder / "mine.py").write_text(MINE)
    quick = ("--padded-size", "32x32", "--threads", 1, "--seconds", 0.1, "--out", folder / "runs")
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in ("profile", *arguments, *quick)])
    assert stopped.value.code == code
    return records(folder / "runs")


def test_whole_models_of_ones_own_are_measured(tmp_path: Path) -> None:
    build, reads = profiled(tmp_path, f"{tmp_path}/mine.py:build:width=4", f"{tmp_path}/mine.py:Reads")[::-1]
    if build["title"] != "build width=4":
        build, reads = reads, build
    # 30 x 30 outputs of 4 channels, 2 x 3 x 9 FLOPs and a bias each, and one comparison each in the ReLU.
    assert build["figures"]["gflops"] * 1e9 == pytest.approx(30 * 30 * 4 * (2 * 27 + 1), rel=0.03)
    assert build["figures"]["parameter_bytes"] == 4 * (4 * 27 + 4)
    assert sum(c["parameter_bytes"] for c in build["components"].values()) == 4 * (4 * 27 + 4)
    assert build["environment"]["during"]["readings"] >= 1
    # This one cannot run without values: it has times, and a reason instead of FLOPs.
    assert reads["figures"]["gflops"] is None
    assert reads["statistics"]["latency_ms"]["median"] > 0
    assert "does not run without values" in reads["notes"]["work"]


def test_a_model_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profiled(tmp_path, f"{tmp_path}/mine.py:Bad", code=2) == []
    said = capsys.readouterr().err
    assert "Bad does not run on cpu in fp32 at 32x32: KeyError: 'no such thing'" in said
    assert said.count("\n") == 1


def test_half_precision_photos_and_the_roofline(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((40, 50, 3), 128, np.uint8)).save(tmp_path / "photos" / "grey.png")
    figure = tmp_path / "roofline.png"
    model = f"{tmp_path}/mine.py:build"
    options = ("--dtype", "bf16", "--images", tmp_path / "photos", "--roofline", figure, "--batch", 2)
    (record,) = profiled(tmp_path, model, *options)
    settings = record["settings"]
    assert (settings["dtype"], settings["inputs"], settings["batch"]) == ("bf16", "photos", 2)
    assert figure.read_bytes()[:4] == b"\x89PNG"

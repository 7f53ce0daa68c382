"""Models named as libraries name them: what they are built of, called with, and refused for."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segmeter.commands.main import main
from segmeter.harness.counting import count_model, run_and_count
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import inputs_of, parse_model, real_model
from tests.helpers.hugging_face import CONFIGS, SIDE, config, folder

pytest.importorskip("transformers")
SQUARE = ImageSize((SIDE, SIDE), (SIDE, SIDE))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def macs(text: str, size: ImageSize = SQUARE) -> float:
    counted = count_model(parse_model(text, own=True), size, "macs")
    assert counted.reason == ""  # on meta, without photos
    return counted.figures.total


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_alone_count_what_values_count(name: str, tmp_path: Path) -> None:
    # On meta only small constants have values: the figure must be that of a real run, to the MAC.
    text = folder(tmp_path, name)
    model = real_model(parse_model(text, own=True))
    assert macs(text) == run_and_count(model, torch.rand(1, 3, SIDE, SIDE))[1].macs > 0


def test_the_options_of_a_config_are_options_of_the_model(tmp_path: Path) -> None:
    text = folder(tmp_path, "eomt")
    assert macs(f"{text}:num_hidden_layers=3") > macs(text)
    with pytest.raises(ValueError, match=r"has no option 'num_querys'; did you mean 'num_queries'\?"):
        parse_model(f"{text}:num_querys=3", own=True)
    nested = folder(tmp_path / "masked", "mask2former")
    deeper = ImageSize((SIDE, 2 * SIDE), (SIDE, 2 * SIDE))
    assert macs(f"{nested}:backbone_config.depths=1,1,3,1", deeper) > macs(nested, deeper)
    with pytest.raises(ValueError, match=r"did you mean 'backbone_config\.depths'"):
        parse_model(f"{nested}:backbone_config.depth=1", own=True)


def test_a_model_is_called_as_its_processor_says(tmp_path: Path) -> None:
    def inputs(processor: dict[str, Any] | None, name: str = "mask2former") -> Any:
        return inputs_of(parse_model(folder(tmp_path, name, processor), own=True))

    assert inputs({"size": {"height": 96, "width": 160}}).size == (96, 160)
    # 480x640, the commonest image of COCO: 60x80, padded to whole multiples of 32.
    resized = inputs({"size": {"shortest_edge": 60, "longest_edge": 90}, "size_divisor": 32})
    assert resized.size == (64, 96)
    (tmp_path / "preprocessor_config.json").unlink()
    assert (inputs(None, "eomt").size, inputs(None, "eomt").source) == ((64, 64), "config.json: image_size")
    (task,) = inputs({"size": {"height": 64, "width": 64}}, "oneformer").extras
    assert (task.name, task.text) == ("task_inputs", "1x8 int64")


def test_inputs_can_be_given_and_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder(tmp_path, "oneformer", task_seq_len=12)
    given = ("--input", "pixel_values=1x3x64x96", "--input", "task_inputs=1x12:int64")
    code, out, _ = run(capsys, "flops", text, *given, "--json")
    record = json.loads(out)
    assert code == 0 and record["padded_size"] == [64, 96]
    assert record["inputs"] == {"pixel_values": "1x3x64x96 float32", "task_inputs": "1x12 int64"}
    code, _, error = run(capsys, "flops", text, "--input", "task_input=1x8")
    assert code == 2 and "has no input 'task_input'; did you mean 'task_inputs'?" in error
    code, _, error = run(capsys, "flops", text, "--input", "task_inputs")
    assert code == 2 and "--input must be NAME=SHAPE[:DTYPE]" in error


def test_any_size_that_the_model_takes(tmp_path: Path) -> None:
    assert macs(folder(tmp_path, "upernet"), ImageSize((67, 93), (67, 93))) > 0
    with pytest.raises(ValueError) as refused:
        macs(folder(tmp_path / "eomt", "eomt"), ImageSize((64, 80), (64, 80)))
    # Its own reason, and the nearest size that it takes.
    assert "does not take 64x80" in str(refused.value) and "20" in str(refused.value)
    assert "the nearest size that it takes is 64x64" in str(refused.value)


CONFIG = {"model_type": "eomt"}
REFUSED = [
    ("no-such-model", {"model_type": "bert"}, "takes input_ids, no images"),
    ("remote", {"model_type": "x", "auto_map": {"AutoModel": "evil.py--Net"}}, "which is never run"),
    (
        "remote-class",
        {"model_type": "segformer", "architectures": ["MyNet"], "auto_map": {"AutoModel": "evil.py--MyNet"}},
        "code from its own repository ('MyNet'), which is never run",
    ),
    ("new", {"model_type": "eomtt"}, "has no model_type 'eomtt'; did you mean 'eomt'?"),
    ("none", {"a": 1}, "config.json is not a model's: it has no model_type"),
    ("list", [1], "is not a model's config: expected an object, got list"),
    ("deep", {**CONFIG, "num_hidden_layers": 10**9}, "num_hidden_layers = 1,000,000,000 is more than 1000"),
    ("type", {**CONFIG, "num_queries": "many"}, "EomtConfig refuses its configuration"),
    ("elsewhere", {"model_type": "upernet", "backbone": "org/weights"}, "another repository, 'org/weights'"),
    (
        "timm",
        {"model_type": "detr", "use_timm_backbone": True, "backbone": "hf-hub:org/net"},
        "timm has no backbone 'hf-hub:org/net'",
    ),
]


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_a_config_that_is_no_model_is_one_line(
    name: str, content: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    code, out, error = run(capsys, "flops", f"hf:{tmp_path}")
    assert (code, out) == (2, "") and reason in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hf:mask2forme", "did you mean 'mask2former'?"),
        ("hf:./nowhere", "no such folder: nowhere"),
        ("timm:resnet5", "did you mean 'resnet50'?"),
        ("timm:resnet18.nobody", "timm has no weights 'resnet18.nobody'"),
        ("timm:resnet18:pretrained=true", "random weights"),
        ("timm:resnet18:depht=2", "has no option 'depht'"),
        ("timm:vit_tiny_patch16_224:img_siz=64", "did you mean 'img_size'?"),
        ("torchvision:deeplabv3_resnet50:num_clases=3", "did you mean 'num_classes'?"),
        ("torchvision:lraspp", "did you mean 'lraspp_mobilenet_v3_large'?"),
        ("torchvision:resnet18:weights=DEFAULT", "random weights"),
        ("m2f", "--input is for a library's model"),
    ],
)
def test_an_unknown_name_is_one_line(text: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "flops", text, *(["--input", "x=1"] if text == "m2f" else []))
    assert (code, out) == (2, "") and reason in error and error.count("\n") == 1


def test_a_config_does_not_act(tmp_path: Path) -> None:
    # Weights, kernels and code that a config may name: nothing of it is looked for.
    acting = {
        "attn_implementation": "kernels-community/nobody",
        "_attn_implementation": "kernels-community/nobody",
        "auto_map": {"AutoModel": "evil--net.Net"},
        "quantization_config": {"quant_method": "nobody"},
        "use_pretrained_backbone": True,
        "architectures": ["os", "pipeline", "EomtForUniversalSegmentation"],
    }
    assert macs(folder(tmp_path, "eomt", **acting)) == macs(folder(tmp_path / "plain", "eomt"))


class Hub(http.server.BaseHTTPRequestHandler):
    """What the Hub answers for two files of one repository."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = "/tiny/eomt/resolve/main/config.json"
        found = json.dumps(config("eomt")).encode() if self.path == wanted else b""
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import huggingface_hub.constants as constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield
    server.shutdown()
    server.server_close()


def test_the_hub_gives_the_config_alone(hub: None, tmp_path: Path) -> None:
    assert macs("hf:tiny/eomt") == macs(folder(tmp_path / "plain", "eomt"))
    written = [path.name for path in (tmp_path / "cache").rglob("*.json") if path.stat().st_size]
    assert written == ["config.json"]


def test_without_a_network_it_says_which_file_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, error = run(capsys, "flops", "hf:far/away")
    assert (code, out) == (2, "") and error.count("\n") == 1
    assert "put its config.json (and preprocessor_config.json) into a folder" in error
    assert "hf:./away" in error


def test_every_command_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder(tmp_path / "net", "eomt")
    code, out, _ = run(capsys, "compare", text, f"{text}:num_queries=9", "--json")
    assert code == 0 and json.loads(out)["models"][1]["inputs_from"] == "config.json: image_size"
    # Like is compared with like, or what differs is said.
    said = run(capsys, "compare", text, "timm:resnet18")[1]
    assert "Each at its own size, 64x64, 224x224, in GMACs" in said
    code, out, _ = run(capsys, "crosscheck", text, "--json")
    assert code == 0 and json.loads(out)["unexplained_gmacs"] == 0
    assert not any(row["failed"] for row in json.loads(out)["rows"])
    budget = tmp_path / "budgets.toml"
    budget.write_text(
        f'[models.net]\nmodel = "hf:./net"\nsize = "{SIDE}x{SIDE}"\n[models.net.limits]\ntotal = "1 GMACs"\n'
    )
    assert run(capsys, "check", budget)[0] == 0
    out_folder = tmp_path / "runs"
    code, out, _ = run(capsys, "profile", text, "--seconds", "0.05", "--out", out_folder, "--json")
    assert code == 0 and json.loads(out)["runs"][0]["settings"]["padded_size"] == f"{SIDE}x{SIDE}"


def test_a_record_or_checkpoint_cannot_name_one() -> None:
    with pytest.raises(ValueError, match="only segmeter's encoders are taken from a file"):
        parse_model("hf:org/net")

"""Models of the user's own: where they come from, what may be wrong with them, and what they cost."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from segmeter.harness.counting.conventions import apply_convention
from segmeter.harness.counting.count import count_model
from segmeter.harness.counting.counter import run_and_count
from segmeter.harness.counting.record import flops_record
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.own import OwnModelError, load_own, own_encoders
from segmeter.harness.models.spec import parse_model as parse_text
from segmeter.harness.models.stages import real_model


def parse_model(text: str):
    """As the command line reads what the user typed: code may be named."""
    return parse_text(text, own=True)


SOURCE = '''
import torch
from torch import nn


class Tiny(nn.Module):
    """1x1 convolutions of each level, and one of width `width` on res2."""

    def __init__(self, in_channels, width=8):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, 256, 1, bias=False) for c in in_channels.values())
        self.extra = nn.Conv2d(in_channels["res2"], width, 1, bias=False)

    def forward(self, features):
        self.extra(features["res2"])
        maps = [conv(m) for conv, m in zip(self.lateral, features.values())]
        return maps[0], maps[:0:-1]


class TwoMaps(Tiny):
    def forward(self, features):
        mask_features, maps = super().forward(features)
        return mask_features, maps[:2]


class OneMap(Tiny):
    def forward(self, features):
        return features["res2"]


class Raises(Tiny):
    def forward(self, features):
        raise RuntimeError("two\\nlines")


class NetRaises(nn.Module):
    def forward(self, image):
        raise KeyError("no such map")


class Options(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.given = given


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1, bias=False)

    def forward(self, image):
        return {"anything": self.stem(image)}


class EarlyExit(Net):
    """Runs on the rows that are brighter than the mean."""

    def forward(self, image):
        rows = image.mean((0, 1, 3))
        return self.stem(image[:, :, rows > rows.mean()])


class ValuesInConstructor(Net):
    def __init__(self):
        super().__init__(int(torch.tensor(6.0).item()))


net = Net(5)


def broken():
    raise KeyError("no such key")


def needs_argument(depth):
    return Net(depth)


def not_a_module():
    return 3
'''
SIZE = ImageSize((64, 96), (64, 96))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "own_source.py"
    path.write_text(SOURCE)
    return str(path)


def test_an_own_encoder_stands_beside_the_four(mine: str) -> None:
    spec = parse_model(f"{mine}:Tiny@r50:width=16")
    counted = count_model(spec, SIZE, "macs")
    assert (spec.backbone, dict(spec.options)) == ("r50", {"width": 16})
    # R50 gives 256, 512, 1024, 2048 channels at strides 4 to 32: 384, 96, 24 and 6 places.
    lateral = 256 * (256 * 384 + 512 * 96 + 1024 * 24 + 2048 * 6)
    assert counted.figures.of("encoder.lateral") == lateral
    assert counted.figures.of("encoder.extra") == 16 * 256 * 384
    assert counted.encoder_params == 256 * (256 + 512 + 1024 + 2048) + 16 * 256
    assert parse_model(spec.text) == spec


def test_a_whole_model_is_an_image_in_and_anything_out(mine: str) -> None:
    spec = parse_model(f"{mine}:Net:width=7")
    assert spec.system.is_own_whole
    record = flops_record(count_model(spec, SIZE, "macs"))
    # 3 channels in, 7 out, at 64*96 places.
    assert record["total_gmacs"] == pytest.approx(3 * 7 * 64 * 96 / 1e9, rel=1e-12)  # one division
    assert (record["title"], record["params"]) == ("Net width=7", 21)


def test_a_module_that_exists_already_is_counted_on_a_copy(mine: str) -> None:
    assert count_model(parse_model(f"{mine}:net"), SIZE, "macs").params == 15


def test_a_module_path_is_imported_like_any_other() -> None:
    spec = parse_model("torchvision.models:resnet18")
    counted = count_model(spec, SIZE, "macs")
    # The figure that torchvision documents for resnet18.
    assert counted.params == 11_689_512


def test_a_constructor_that_reads_values_is_built_on_the_cpu(mine: str) -> None:
    assert count_model(parse_model(f"{mine}:ValuesInConstructor"), SIZE, "macs").params == 18


def test_work_that_depends_on_the_image_is_counted_on_photos_with_its_spread(mine: str) -> None:
    record = flops_record(count_model(parse_model(f"{mine}:EarlyExit"), SIZE, "macs"))
    assert "aten::index" in record["input_dependent"]
    spread = record["spread"]["total"]
    most = 3 * 4 * 64 * 96 / 1e9
    assert 0 < spread["min"] < spread["max"] < most
    assert spread["min"] <= record["total_gmacs"] <= spread["max"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tinny", r"has no 'Tinny'; did you mean 'Tiny'\?"),
        ("broken", "broken cannot be built: KeyError: 'no such key'"),
        ("needs_argument", "needs_argument cannot be built: TypeError: .* 'depth'"),
        ("not_a_module", r"must give a torch.nn.Module, got int"),
        ("Net:widht=3", r"has no option 'widht'; did you mean 'width'\?"),
        ("Tiny:widht=3", r"has no option 'widht'; did you mean 'width'\?"),
        ("TwoMaps", r"must return \(mask_features, \[stride 32, stride 16, stride 8\]\) with 256"),
        ("OneMap", r"must return \(mask_features, .*got Tensor"),
        ("Raises", "failed at 64x96: RuntimeError: two lines"),
        ("NetRaises", "NetRaises failed on a 64x96 image: KeyError: 'no such map'"),
        ("SOURCE", "has no 'SOURCE'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(mine: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        count_model(parse_model(f"{mine}:{name}"), SIZE, "macs")
    assert "\n" not in str(caught.value)


def test_the_users_own_error_is_kept_as_the_cause(mine: str) -> None:
    with pytest.raises(OwnModelError) as caught:
        count_model(parse_model(f"{mine}:broken"), SIZE, "macs")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/mine.py:Net", "no such file: nowhere/mine.py"),
        ("no_such_package:Net", "cannot import no_such_package: ModuleNotFoundError"),
        ("pro-scal", r"unknown encoder 'pro-scal'; did you mean 'pro-scale'\?"),
        ("a b:Net", "expected package.module:attribute or file.py:Name"),
    ],
)
def test_a_source_that_is_not_there(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_own(source)


def test_an_entry_point_is_found_by_name_and_imported_only_when_named(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(mine).parent))
    installed = tmp_path / "tiny-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[segmeter.encoders]\ntiny-encoder = own_source:Tiny\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "tiny-encoder" in own_encoders()
    assert "own_source" not in sys.modules
    assert parse_model("tiny-encoder@r50").encoder_title == "tiny-encoder"


def test_components_can_be_named_from_outside() -> None:
    from segmeter.harness.models.components import component_finder

    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 5, 1, bias=False)).to("meta")
    _, count = run_and_count(model, torch.empty(1, 3, 2, 2, device="meta"))
    figures = apply_convention(count, component_finder(model, {"0": "stem", "1": "head.last"}), "macs")
    # 4 places: 3*4 and 4*5 products each.
    assert figures.by_component == {"stem": 48, "head.last": 80}


def test_a_toml_file_names_a_model_with_its_arguments_and_components(mine: str, tmp_path: Path) -> None:
    path = Path(mine).with_name("wide.toml")
    path.write_text(
        f'model = "{Path(mine).name}:Tiny"\noptions.width = 16\n[components]\nextra = "head.last"\n'
    )
    spec = parse_model(f"{path}@r50")
    assert (spec.title, dict(spec.options)) == ("wide, R50", {"width": 16})
    figures = count_model(spec, SIZE, "macs").figures
    # R50 gives 256 channels at 16x24 = 384 places.
    assert figures.of("encoder.head.last") == 16 * 256 * 384
    assert figures.of("encoder.extra") == 0
    narrow = parse_model(f"{path}@r50:width=4")
    assert count_model(narrow, SIZE, "macs").figures.of("encoder.head") == 4 * 256 * 384
    assert parse_model(narrow.text) == narrow


def test_components_are_named_in_the_model_s_text(mine: str) -> None:
    spec = parse_model(f"{mine}:Tiny@r50:components.lateral.*=input projection:components.extra=head")
    figures = count_model(spec, SIZE, "macs").figures
    assert figures.of("encoder.head") == 8 * 256 * 384
    assert figures.of("encoder.lateral") == 0
    assert figures.of("encoder.input projection") == 256 * (256 * 384 + 512 * 96 + 1024 * 24 + 2048 * 6)
    assert parse_model(spec.text) == spec
    whole = parse_model(f"{mine}:Net:components.stem=patches")
    assert count_model(whole, SIZE, "macs").figures.by_component.keys() == {"patches"}
    with pytest.raises(ValueError, match=r"m2f has no option 'components.a'"):
        parse_model("m2f:components.a=b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "mine.py:Net', "is not TOML"),
        ('modle = "mine.py:Net"', "unknown key 'modle'; did you mean 'model'?"),
        ("[options]\nwidth = 3", "must say which model it means"),
        ('model = "FILE:Net"\noptions = 3', "options must be a table"),
        ('model = "FILE:Net"\noptions.widht = 3', "has no option 'widht'; did you mean 'width'?"),
        ('model = "FILE:Net"\ncomponents.a = 3', "components must be names"),
        ('model = "gone.py:Net"', "no such file"),
    ],
)
def test_a_bad_toml_file_is_one_line(mine: str, text: str, message: str) -> None:
    path = Path(mine).with_name("bad.toml")
    path.write_text(text.replace("FILE", Path(mine).name))
    with pytest.raises(ValueError) as caught:
        parse_model(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_have_the_types_that_they_look_like(mine: str) -> None:
    spec = parse_model(f"{mine}:Options:flag=false:depths=2,6:rate=0.5:name=gelu:nothing=none")
    model = real_model(spec)
    assert model.given == {"flag": False, "depths": (2, 6), "rate": 0.5, "name": "gelu", "nothing": None}


def test_a_whole_model_takes_no_backbone(mine: str) -> None:
    with pytest.raises(ValueError, match="is a whole model, which has no backbone of ours; got 'r50'"):
        parse_model(f"{mine}:Net@r50")

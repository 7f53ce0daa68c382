"""Efficiency cards: whole numbers that add up, a schema that refuses broken cards, honest times."""

import copy
import json
import shutil
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from PIL import Image

from segmeter.commands.main import main
from segmeter.harness.card import AGREE, DISAGREE, compare_times, make_card, measured, verify_card
from segmeter.harness.inputs import ImageSize, find_photos
from segmeter.harness.models import parse_model
from segmeter.harness.records import card_schema, read_card, read_run, write_json
from segmeter.harness.records.card import card_from
from segmeter.reports.text.card import card_notes, rendered
from tests.helpers.places import ROOT
from tests.helpers.reduction_recipe import photo

SIZE = ImageSize((64, 64), (64, 64))
MODELS = ("m2f@r50", "pro-scale@r50:stages=1,1,1", "yoso@r50", "torchvision:resnet18")


@pytest.fixture(scope="module")
def card() -> Any:
    return make_card([parse_model(text, own=True) for text in MODELS], [SIZE] * len(MODELS))


@pytest.fixture
def file(card: Any, tmp_path: Path) -> Path:
    path = tmp_path / "card.json"
    write_json(path, card)
    return path


@pytest.mark.parametrize("name", ["any_name", "card.txt"])
def test_a_form_that_is_given_needs_no_ending(file: Path, name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["card", "show", str(file), "--format", "md", "--out", str(file.with_name(name))])
    assert not ended.value.code and "M2F" in file.with_name(name).read_text()


def test_costs_are_whole_and_add_up(card: Any) -> None:
    for model in card["models"]:
        assert [cost["convention"] for cost in model["cost"]] == ["published", "macs", "flops"]
        for cost in model["cost"]:
            assert all(type(units) is int for units in cost["components"].values())
            assert type(cost["total"]) is int and sum(cost["components"].values()) == cost["total"]
        published, macs, _ = model["cost"]
        left_out = sum(one["amount"] for one in published["not_counted"].values())
        # The conventions differ by what is left out, and by nothing else.
        assert published["total"] + left_out == macs["total"]


def test_a_card_is_what_torchvision_says_of_its_model(card: Any) -> None:
    resnet = card["models"][3]
    assert resnet["kind"] == "library" and resnet["parameters"]["total"] == 11_689_512


def test_the_schema_is_one_and_cards_are_of_it(card: Any) -> None:
    Draft202012Validator.check_schema(card_schema())
    assert list(Draft202012Validator(card_schema()).iter_errors(card)) == []


def test_a_card_verifies(file: Path) -> None:
    check = verify_card(read_card(file))
    assert check["verdict"] == "verified" and check["versions"] == {}
    assert all(one["figures"] > 20 and not one["differences"] for one in check["models"])


@pytest.mark.parametrize(
    ("where", "figure"),
    [
        (
            ("cost", 0, "not_counted", "deformable_sampling", "amount"),
            "published, not counted: deformable_sampling",
        ),
        (("parameters", "total"), "parameters, total"),
        (("parameters", "encoder"), "parameters, encoder"),
    ],
)
def test_one_off_is_a_difference(card: Any, where: tuple[Any, ...], figure: str) -> None:
    moved = copy.deepcopy({**card, "models": card["models"][:1]})
    inside: Any = moved["models"][0]
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] += 1
    check = verify_card(moved)
    (found,) = check["models"][0]["differences"]
    assert check["verdict"] == "differs" and found["figure"] == figure
    assert found["card"] == found["counted"] + 1


def test_work_moved_between_components_is_found_though_the_total_holds(card: Any, tmp_path: Path) -> None:
    moved = copy.deepcopy({**card, "models": card["models"][:1]})
    parts = moved["models"][0]["cost"][1]["components"]
    first, second, *_ = parts
    parts[first], parts[second] = parts[first] + 1, parts[second] - 1
    write_json(tmp_path / "moved.json", moved)
    check = verify_card(read_card(tmp_path / "moved.json"))
    assert {one["figure"] for one in check["models"][0]["differences"]} == {
        f"macs, {first}",
        f"macs, {second}",
    }


def broken(change: Any) -> Any:
    def apply(card: Any) -> Any:
        content = copy.deepcopy(card)
        return change(content) or content

    return apply


def _total(content: Any) -> None:
    content["models"][0]["cost"][0]["total"] += 1


def _fraction(content: Any) -> None:
    content["models"][0]["cost"][0]["total"] += 0.5


def _size(content: Any) -> None:
    content["models"][0]["input"]["padded_size"] = [64]


def _negative(content: Any) -> None:
    content["models"][0]["parameters"]["total"] = -1


def _extra(content: Any) -> None:
    content["models"][0]["weights"] = "x"


def _endless(content: Any) -> None:
    content["models"][0]["measured"] = {"environment": 1e999}


BROKEN = {
    "another schema": (lambda c: {**c, "schema": "segmeter.card/2"}, "expected segmeter.card/1"),
    "a list": (lambda c: [c], "expected segmeter.card/1"),
    "no models": (lambda c: {**c, "models": []}, "models"),
    "a total that does not add up": (_total, "add up to"),
    "half a multiply-accumulate": (_fraction, "models.0.cost.0.total"),
    "one side": (_size, "padded_size"),
    "fewer than no parameters": (_negative, "parameters.total"),
    "an unknown field": (_extra, "weights"),
    "infinity": (_endless, "JSON|float"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_card_is_told_in_one_line(name: str, card: Any, tmp_path: Path) -> None:
    change, told = BROKEN[name]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(broken(change)(card)).replace("Infinity", "1e999"))
    with pytest.raises(ValueError, match=told) as refused:
        read_card(path)
    assert (
        "\n" not in str(refused.value) and len(str(refused.value)) < 1000 and str(path) in str(refused.value)
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema": "segmeter.card/1"}']
)
def test_what_is_no_card_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="card"):
        read_card(path)
    with pytest.raises(ValueError, match="folder"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "attribute", ["mine.py:Net", "os:system", "segmenter:reduction=mine.py:Mine", "mine.toml"]
)
def test_no_card_makes_code_run(
    card: Any, attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (tmp_path / "mine.toml").write_text('model = "mine.py:Net"\n')
    monkeypatch.chdir(tmp_path)
    content = copy.deepcopy({**card, "models": card["models"][:1]})
    content["models"][0]["model"] = attribute
    with pytest.raises(ValueError):
        verify_card(content)
    assert not mark.exists()


def test_a_folder_is_no_library_name(card: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    content = copy.deepcopy({**card, "models": card["models"][:1]})
    for model in (f"hf:{tmp_path}", "hf:./x/y", "timm:resnet18:pretrained=true"):
        content["models"][0]["model"] = model
        with pytest.raises(ValueError, match="only segmeter's encoders are taken from a file"):
            verify_card(content)


def test_what_depends_on_the_image_has_no_card() -> None:
    spec = parse_model("segmenter@vit-ti:reduction=algm")
    with pytest.raises(ValueError, match=r"no card without photos: the work of .* depends on what the"):
        make_card([spec], [SIZE])


RECORDS = ROOT / "results" / "records" / "cpu-512x1024" / "fp32-batch-1"


@pytest.fixture(scope="module")
def taken() -> Any:
    return measured(read_run(RECORDS / "20261201T014159-4febc6cc.json"))


def test_times_agree_where_their_intervals_meet(taken: Any) -> None:
    # 1523 ms, 1405 to 1640.
    same = copy.deepcopy(taken)
    same["latency_ms"] |= {"median": 1690.0, "low": 1640.0, "high": 1740.0}
    assert compare_times(taken, same)["verdict"] == AGREE
    same["latency_ms"]["low"] = 1641.0
    assert compare_times(taken, same)["verdict"] == DISAGREE
    assert compare_times(taken, None)["verdict"] == "not timed again"


@pytest.mark.parametrize(
    ("part", "name", "value", "told"),
    [
        (
            "environment",
            "device_name",
            "Another CPU",
            "name of the device 'Intel(R) Xeon(R) Processor' on the card, 'Another CPU' here",
        ),
        ("environment", "threads", 8, "threads 2 on the card, 8 here"),
        ("environment", "gpu", {"name": "H200"}, "GPU unknown on the card, 'H200' here"),
        ("settings", "dtype", "bf16", "dtype 'fp32' on the card, 'bf16' here"),
        ("settings", "batch", 8, "batch 1 on the card, 8 here"),
    ],
)
def test_times_of_another_machine_are_not_compared(
    taken: Any, part: str, name: str, value: Any, told: str
) -> None:
    other = copy.deepcopy(taken)
    other[part][name] = value
    found = compare_times(taken, other)
    assert found["verdict"] == "cannot be compared" and told in found["why"]


def test_another_torch_is_another_software_not_another_machine(taken: Any) -> None:
    other = copy.deepcopy(taken)
    other["environment"]["versions"]["torch"] = "2.12.1"
    found = compare_times(taken, other)
    assert found["verdict"] == AGREE and found["software"] == ["torch '2.15.0' on the card, '2.12.1' here"]


def test_a_measured_card_is_of_the_schema(card: Any, taken: Any, tmp_path: Path) -> None:
    content = copy.deepcopy(card)
    content["models"][0]["measured"] = taken
    write_json(tmp_path / "card.json", content)
    assert read_card(tmp_path / "card.json")["models"][0]["measured"]["latency_ms"]["samples"] == 10


def test_a_card_made_with_another_python_and_torch_verifies_here() -> None:
    found = read_card(ROOT / "tests" / "data" / "cards" / "torch-2.12.1-python-3.12.json")
    assert (found["made_with"]["torch"], found["made_with"]["python"]) == ("2.12.1", "3.12.1")
    check = verify_card(found)
    assert [one["differences"] for one in check["models"]] == [[], [], [], []]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "astronaut", "rocket"):
        Image.fromarray(photo(name, 96, 128)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def photo_card(photos: Path) -> Any:
    spec = parse_model("segmenter@vit-ti:reduction=algm:threshold=0.8", num_classes=19)
    return make_card([spec], [ImageSize((128, 128), (128, 128))], photos=find_photos([photos]))


def test_a_cost_that_depends_on_the_image_is_of_named_photos(photo_card: Any) -> None:
    assert list(Draft202012Validator(card_schema()).iter_errors(photo_card)) == []
    (model,) = photo_card["models"]
    images = model["photos"]["images"]
    for cost in model["cost"]:
        totals = [one["totals"][cost["convention"]] for one in images]
        # Photos differ, or nothing would depend on them.
        assert len(set(totals)) > 1 and sum(totals) == cost["total"] == sum(cost["components"].values())
        mean = fmean(totals) / 1e9
        assert f"mean {mean:.2f}, standard deviation {pstdev(totals) / 1e9:.2f}" in " ".join(
            card_notes(photo_card)
        )
    assert "mean of 3 photos" in rendered(photo_card, "svg")
    assert "of 3 photos together" in rendered(photo_card, "md")
    hub = yaml.safe_load(rendered(photo_card, "hub").strip("-\n"))
    metrics = hub["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == pytest.approx(model["cost"][0]["total"] / 3e9)


def test_photos_are_found_by_their_digests_and_counted_again(
    photo_card: Any, photos: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(photos.iterdir(), reverse=True)):
        shutil.copy(path, renamed / f"{number}.png")
    check = verify_card(photo_card, photos=[renamed])
    assert check["verdict"] == "verified" and check["models"][0]["figures"] > 20
    moved = copy.deepcopy(photo_card)
    first, second, _ = moved["models"][0]["photos"]["images"]
    first["totals"]["macs"] += 1
    second["totals"]["macs"] -= 1
    (found,) = [verify_card(moved, photos=[renamed])["models"][0]["differences"]]
    assert [one["figure"] for one in found] == ["macs, photo astronaut.png", "macs, photo coffee.png"]
    (renamed / "0.png").write_bytes((renamed / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of them are not here, rocket\.png first"):
        verify_card(photo_card, photos=[renamed])


def test_photos_costs_add_up_and_their_weights_are_named(photo_card: Any, photos: Path) -> None:
    moved = copy.deepcopy(photo_card)
    moved["models"][0]["photos"]["images"][0]["totals"]["macs"] += 1
    with pytest.raises(ValueError, match="not the sum of the photos' costs"):
        card_from(moved)
    moved = copy.deepcopy(photo_card)
    moved["models"][0]["photos"]["weights_sha256"] = "0" * 64
    with pytest.raises(ValueError, match="give it with --weights"):
        verify_card(moved, photos=[photos])


def test_a_model_that_depends_on_photos_asks_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["card", "segmenter@vit-ti:reduction=algm", "--padded-size", "128x128"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "name photos with --images" in said and said.count("\n") == 1

"""Cards as people see them: a table, Markdown, a badge, the Hub's metadata; hostile names stay letters."""

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from segmeter.commands.main import main
from segmeter.reports.badge import badge_svg
from segmeter.reports.text.card import hub_metadata, rendered

HOSTILE = "</text><script>alert(1)</script>\"'\x1b[31m\n- evil: [x](javascript:1) | {#}"
SVG = "{http://www.w3.org/2000/svg}"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("card") / "card.json"
    assert run("card", "m2f@r50", "--padded-size", "64x64", "--out", path) == 0
    return json.loads(path.read_text())


@pytest.fixture
def file(card: Any, tmp_path: Path) -> Path:
    (tmp_path / "card.json").write_text(json.dumps(card))
    return tmp_path / "card.json"


def hostile(card: Any) -> Any:
    content = copy.deepcopy(card)
    model = content["models"][0]
    model |= {"title": HOSTILE, "model": HOSTILE}
    model["cost"][0] |= {"text": HOSTILE, "components": {HOSTILE: model["cost"][0]["total"]}}
    model["cost"][0]["not_counted"] = {HOSTILE: {"amount": None, "reason": HOSTILE}}
    return content


def test_a_card_is_made_shown_and_verified(file: Path, card: Any, capsys: pytest.CaptureFixture[str]) -> None:
    total = card["models"][0]["cost"][0]["total"]
    assert run("card", "show", file) == 0
    assert f"{total / 1e9:.2f}" in capsys.readouterr().out
    assert run("card", "verify", file) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert run("card", "verify", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "verified"


def test_a_card_that_differs_ends_with_1(file: Path, card: Any, capsys: pytest.CaptureFixture[str]) -> None:
    changed = copy.deepcopy(card)
    changed["models"][0]["cost"][1]["total"] += 1
    parts = changed["models"][0]["cost"][1]["components"]
    parts[next(iter(parts))] += 1
    file.write_text(json.dumps(changed))
    assert run("card", "verify", file) == 1
    said = capsys.readouterr().out
    assert "2 figures differ" in said and said.endswith("differs\n")


@pytest.mark.parametrize("content", ["{", '{"schema": "other"}'])
def test_a_card_that_cannot_be_read_ends_with_2(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.json").write_text(content)
    assert run("card", "verify", tmp_path / "card.json") == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert run("card", "verify", tmp_path / "none.json") == 2


def test_own_code_is_verified_only_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import torch\n\ndef tiny():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    assert run("card", "mine.py:tiny", "--padded-size", "32x32", "--out", "card.json") == 0
    content = json.loads((tmp_path / "card.json").read_text())["models"][0]
    # 32 x 32 pixels of 3 x 4 products.
    assert content["kind"] == "own code" and content["cost"][1]["total"] == 32 * 32 * 12
    assert run("card", "verify", "card.json") == 2
    assert "is code" in capsys.readouterr().err
    assert run("card", "verify", "card.json", "mine.py:tiny") == 0
    assert run("card", "verify", "card.json", "mine.py:tiny", "m2f") == 2


def test_a_hostile_card_is_letters_everywhere(
    card: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = hostile(card)
    drawn = ElementTree.fromstring(rendered(content, "svg"))
    assert drawn.find(f".//{SVG}script") is None and HOSTILE[:10] in "".join(drawn.itertext())
    # In code spans markup is letters.
    page = re.sub(r"`[^`]*`", "", rendered(content, "md"))
    assert "<script>" not in page and "\x1b" not in page and not re.search(r"(?<!\\)\]\(javascript", page)
    read = yaml.safe_load(hub_metadata(content).strip("-\n"))
    assert set(read) == {"model-index"} and read["model-index"][0]["name"].startswith("</text>")
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert run("card", "show", tmp_path / "card.json") == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_the_hubs_own_reader_reads_the_metadata(card: Any) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(hub_metadata(card) + "\n# A model\n").data
    found = {(one.metric_type, one.metric_value) for one in data.eval_results}
    model = card["models"][0]
    assert ("parameters", model["parameters"]["total"]) in found
    assert ("macs", model["cost"][0]["total"] / 1e9) in found and len(data.eval_results) == 4
    assert data.model_name == "M2F, R50"


def test_markdown_prints_every_whole_number(card: Any) -> None:
    page = rendered(card, "md")
    for cost in card["models"][0]["cost"]:
        assert f"**{cost['total']:,}**" in page
    assert "segmeter card verify" in page


def test_a_badge_has_a_title_and_its_text_fits_its_box() -> None:
    root = ElementTree.fromstring(badge_svg("M2F, R50 & <b>", "1.52 GMACs"))
    title = root.find(f"{SVG}title")
    assert title is not None and title.text == "M2F, R50 & <b>: 1.52 GMACs" == root.get("aria-label")
    assert root.get("role") == "img"
    boxes, texts = root.findall(f".//{SVG}g/{SVG}rect"), root.findall(f".//{SVG}text")
    for box, text in zip(boxes, texts, strict=True):
        start = float(text.get("x", 0)) - float(box.get("x", 0))
        assert start > 0 and start + float(text.get("textLength", 0)) < float(box.get("width", 0))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", badge_svg("a", "b"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "pdf"), "unknown format 'pdf'"),
        (("--format", "md", "--hub"), "give one of"),
        (("--out", "card.txt"), "must end in .json"),
        (("--out", "card.json", "--format", "text"), "--out needs"),
    ],
)
def test_a_form_that_is_none_is_told(
    words: tuple[str, ...], told: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("card", "show", file, *words) == 2
    assert told in capsys.readouterr().err


def test_a_badge_is_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("card", "m2f@r50", "rt-m2f@r50", "--padded-size", "64x64", "--format", "svg") == 2
    assert "one model" in capsys.readouterr().err

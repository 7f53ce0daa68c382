"""docs/systems.md prints what is counted."""

import re

import pytest

from segmeter.harness.counting import count_model
from segmeter.harness.inputs import ImageSize, parse_size
from segmeter.harness.models import parse_model
from tests.helpers.places import ROOT

ROW = re.compile(r"\| `([^`]+)` \| (\d+x\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) M \|")
ROWS = ROW.findall((ROOT / "docs" / "systems.md").read_text(encoding="utf-8"))


def test_the_page_has_a_row_for_every_system() -> None:
    named = {text.partition("@")[0] for text, *_ in ROWS}
    assert named == {"maskformer", "pem", "yoso", "rap-sam", "kmax", "eco-m2f", "maskclip", "fc-clip"}


@pytest.mark.parametrize(("text", "size", "encoder", "total", "params"), ROWS)
def test_every_row_is_recounted(text: str, size: str, encoder: str, total: str, params: str) -> None:
    padded = parse_size(size)
    counted = count_model(parse_model(text), ImageSize(padded, padded), "published")
    assert f"{counted.figures.of('encoder') / 1e9:.2f}" == encoder
    assert f"{counted.figures.total / 1e9:.2f}" == total
    assert f"{counted.params / 1e6:.2f}" == params

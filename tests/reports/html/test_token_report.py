"""The section on token redundancy: its sentences follow its figures."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from segmeter.harness.inputs.photos import choose_photos
from segmeter.harness.inputs.sizes import ResizeRule
from segmeter.harness.models.spec import model_spec
from segmeter.harness.tokens.maps import Settings
from segmeter.harness.tokens.run import run_tokens
from segmeter.harness.weights.network import load_network
from segmeter.reports.plots.breakdown import figure_bytes
from segmeter.reports.plots.tokens import unpacked
from segmeter.reports.text.tokens import figures, markdown_section, ordering_lines, tables, tokens_csv


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Image.fromarray(pixels).resize((128, 96)).save(folder / f"{name}.png")
    spec = model_spec("pro-scale", stages=(1, 1, 1))
    network = load_network("mobilenetv3_small_050", spec, None, allow_random=True)
    photos = choose_photos([folder], 5, seed=0)[0]
    settings = Settings(max_distance=8, max_radius=4, sample=64)
    return run_tokens(network, photos, settings, at="all", encoder=spec, rule=ResizeRule(96, 160))


@pytest.fixture(scope="module")
def drawn(record: dict) -> dict:
    return figures(record)


def test_random_weights_are_told_in_the_section_and_on_every_figure(record: dict, drawn: dict) -> None:
    assert markdown_section(record).count("similarities of such features mean nothing") == 2
    for name, figure in drawn.items():
        if name != "tokens-maps":
            caption = figure.get_supxlabel().replace("\n", " ")
            assert "mean nothing" in caption, name


def test_the_ordering_follows_the_curves(record: dict) -> None:
    curves = {scale: found["sequence"]["mean"] for scale, found in record["places"][0]["scales"].items()}
    pair = next(p for p in record["ordering"] if (p["larger"], p["curve"]) == ("s1", "sequence"))
    above = [a > b for a, b in zip(curves["s1"], curves["s2"], strict=True)]
    assert (pair["above"], pair["distances"]) == (sum(above), 8)
    line = ordering_lines(record)[0]
    assert f"at {sum(above)} of 8 distances" in line
    assert ("yes" in line) == all(above)


def test_every_layer_has_its_rows(record: dict) -> None:
    text = markdown_section(record)
    assert "| layer 1 | s4 | 12 (sees 12)" in text
    assert "| layer 3 | s2 | 252 (sees 252)" in text
    assert "| output | s2 |" in text and "| pixel embedding | s1 |" in text


def test_the_csv_holds_the_records_figures(record: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(tokens_csv(record))))
    found = {(r["place"], r["scale"], r["measure"], r["at"]): r["mean"] for r in rows}
    assert len(found) == len(rows)
    s1 = record["places"][0]["scales"]["s1"]
    assert float(found["backbone", "s1", "sequence", "3"]) == s1["sequence"]["mean"][2]
    assert float(found["backbone", "s1", "nearest_share", "0.9"]) == s1["nearest"]["share"][6]
    assert float(found["what-if pro-scale", "s4", "windows_gmacs_saved", "0.5"]) >= 0


def test_figures_are_drawn_in_both_formats(drawn: dict) -> None:
    assert set(drawn) == {"tokens-curves", "tokens-maps", "tokens-layers", "tokens-what-if"}
    for figure in drawn.values():
        assert figure_bytes(figure, "png").startswith(b"\x89PNG")
        assert figure_bytes(figure, "pdf").startswith(b"%PDF")


def test_a_similarity_map_survives_its_packing(record: dict) -> None:
    packed = record["examples"][0]["maps"]["s2"]
    values = unpacked(packed)
    # 12x16 tokens make 6x8 windows of 2x2; the ends are kept exactly.
    assert values.shape == (6, 8)
    assert values.min() == pytest.approx(packed["low"]) and values.max() == pytest.approx(packed["high"])
    mean = record["places"][0]["scales"]["s2"]["windows"][0]["mean"]
    # Both images are the same; rounding to 1 of 255 steps moves a mean by at most half a step.
    assert values.mean() == pytest.approx(mean, abs=(packed["high"] - packed["low"]) / 255 / 2)


def test_tables_have_a_row_for_each_scale(record: dict) -> None:
    backbone, layers, what_if = tables(record)
    assert backbone.row_count == 4
    # backbone 4, layers 1 + 2 + 3, output 3, pixel embedding 1.
    assert layers.row_count == 14
    assert what_if.row_count == 8

"""Components of libraries' models: their families' tables, and module trees folded by where the work is."""

import pytest
from torch import nn

from segmeter.harness.counting import apply_convention, work_of
from segmeter.harness.inputs import ImageSize
from segmeter.harness.models import find_components, parse_model
from segmeter.harness.models.libraries.folding import folded
from tests.helpers.hugging_face import SIDE, folder

SQUARE = ImageSize((SIDE, SIDE), (SIDE, SIDE))


def shares(text: str, size: ImageSize = SQUARE) -> dict[str, float]:
    """Row -> its share of all work."""
    spec = parse_model(text, own=True)
    figures = apply_convention(work_of(spec, size), find_components(spec), "macs")
    rows = dict.fromkeys(name.partition(".")[0] for name in figures.by_component)
    return {row: figures.of(row) / figures.total for row in rows}


@pytest.mark.parametrize(
    ("family", "kind", "rows"),
    [
        ("detr", "DetrModel", {"backbone", "encoder", "decoder"}),
        ("mask2former", "Mask2FormerModel", {"backbone", "encoder", "decoder"}),
        ("rt_detr_v2", "RTDetrV2Model", {"backbone", "encoder", "decoder"}),
    ],
)
def test_a_model_without_its_heads_has_the_same_rows(
    family: str, kind: str, rows: set[str], tmp_path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("transformers")
    found = shares(folder(tmp_path, family, architectures=[kind]))
    assert {row for row, share in found.items() if share} == rows


def test_a_table_that_would_be_one_row_gives_way_to_the_module_tree() -> None:
    pytest.importorskip("transformers")
    # The table of BEiT's segmenter calls all of a classifier its backbone.
    found = shares("hf:BeitForImageClassification", ImageSize((224, 224), (224, 224)))
    assert max(found.values()) < 0.5 and "beit_layers_mlp_fc1" in found


def test_a_table_is_for_models_of_its_own_library() -> None:
    # timm's module is called beit as well.
    assert max(shares("timm:beit_base_patch16_224", ImageSize((224, 224), (224, 224))).values()) < 0.5


def test_a_tree_is_folded_by_work_and_a_long_list_cut_into_runs() -> None:
    # VGG: 9 of 10 parameters are in the head, and 98 % of the work in one list of convolutions.
    found = shares("timm:vgg11", ImageSize((64, 64), (64, 64)))
    assert {"features_0_to_4", "features_15_to_20"} <= found.keys() and max(found.values()) < 0.6


def test_work_decides_which_part_is_taken_apart() -> None:
    stem, body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), nn.Linear(1000, 1000)
    tree = nn.ModuleDict({"stem": stem, "body": body})
    assert folded(tree) == {"stem": "stem", "body": "body"}  # by parameters
    work = {id(stem[0]): 1.0, id(stem[1]): 8.0, id(body): 1.0}
    assert folded(tree, work) == {"stem": "stem", "stem.0": "stem_0", "stem.1": "stem_1", "body": "body"}

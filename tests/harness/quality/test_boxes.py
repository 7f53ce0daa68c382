"""Boxes as COCO results, their average precision, and models that know things alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segmeter.commands.main import main
from segmeter.encoders.parts.boxes import DetectionPostProcess
from segmeter.harness.models import parse_model, real_model
from segmeter.harness.quality.boxes import thing_ids
from segmeter.harness.quality.datasets import Category, open_dataset
from segmeter.harness.quality.evaluate import quality_record, score_folder
from tests.harness.quality.test_evaluate import SIZES, make_dataset

# The truth's boxes: the car's columns 50 to 150, the dog's 150 to 250.
COLUMNS = {3: 50, 5: 150}


def boxes_of(dataset, folder: Path, wider: float = 0.0) -> dict:
    folder.mkdir()
    found = []
    for entry, (height, _) in zip(dataset.entries, SIZES, strict=True):
        for category, left in COLUMNS.items():
            one = {"image_id": entry.image_id, "category_id": category, "score": 0.9}
            found.append({**one, "bbox": [left, 0, 100 + wider, height]})
    (folder / "instances.json").write_text(json.dumps(found))
    scores = score_folder(dataset, dataset.entries, folder, processes=1)
    assert not scores.faults
    return quality_record(scores, dataset, {"title": "boxes"})


def test_boxes_of_known_overlap_give_known_average_precision(tmp_path: Path) -> None:
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    exact = boxes_of(dataset, tmp_path / "exact")
    assert exact["box_ap"] == pytest.approx(100) and exact["ap"] is None and exact["pq"] is None
    # 100 of 160 columns: IoU 0.625, above three of the ten thresholds from 0.5 to 0.95.
    loose = boxes_of(dataset, tmp_path / "loose", wider=60)
    assert loose["box_ap"] == pytest.approx(30) and loose["box_ap50"] == pytest.approx(100)
    assert loose["per_class"]["dog"]["box_ap"] == pytest.approx(30)


@pytest.mark.parametrize("box", [[1, 2, 3], [0, 0, -1, 5], [0, 0, None, 5], "box", [0, 0, True, 1]])
def test_a_bad_box_is_named(box: object, tmp_path: Path) -> None:
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    (tmp_path / "p").mkdir()
    one = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": box}
    (tmp_path / "p" / "instances.json").write_text(json.dumps([one]))
    with pytest.raises(ValueError, match=r"box is .*expected left, top, width and height"):
        score_folder(dataset, dataset.entries, tmp_path / "p", processes=1)


def test_the_classes_of_a_model_of_things_are_the_data_sets() -> None:
    categories = [Category(1, "a", True), Category(4, "b", True), Category(9, "c", False)]
    masks, boxes = nn.Identity(), DetectionPostProcess()
    assert thing_ids(categories, 3, masks) is None and thing_ids(categories, 3, boxes) == (1, 4, 9)
    assert thing_ids(categories, 2, masks) == (1, 4)
    # DINO's classes are COCO's category ids.
    assert thing_ids(categories, 5, boxes) == (None, 1, None, None, 4)
    with pytest.raises(ValueError, match=r"7 classes, the data set 3, 2 of them things"):
        thing_ids(categories, 7, boxes)


def test_a_detector_writes_coco_results_and_is_scored_by_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data", "coco")
    torch.manual_seed(0)
    spec = parse_model("rt-detr@r50vd:num_queries=30", num_classes=2)
    weights = {name: entry.contiguous() for name, entry in real_model(spec).state_dict().items()}
    save_file(weights, tmp_path / "rt.safetensors", metadata={"segmeter.model": spec.text})
    command = f"evaluate --dataset coco --data {data} --weights {tmp_path}/rt.safetensors --limit 1"
    command += f" --encoder rt-detr@r50vd:num_queries=30 --out {tmp_path}/out --record {tmp_path}/r.json"
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert 0 <= record["box_ap"] <= 100 and record["ap"] is None and "box AP" in said.out
    assert record["cost"]["total_gmacs"] > record["cost"]["encoder_gmacs"] > 0
    found = json.loads((tmp_path / "out" / "instances.json").read_text())
    # Every pair of query and class: fewer than the 300 that are kept of more.
    assert len(found) == 30 * 2 and {f["category_id"] for f in found} <= {3, 5}
    for one in found:
        left, top, width, height = one["bbox"]
        assert 0 <= left <= left + width <= 400.001 and 0 <= top <= top + height <= 8.001
    assert not (tmp_path / "out" / "panoptic.json").exists()

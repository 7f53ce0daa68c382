"""Annotations and predictions that hold anything: one clear line each, and never a score of nonsense."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from segmeter.commands.main import main
from segmeter.encoders.segmenter.postprocess import SegmentationOutput, instances
from segmeter.files import locked
from segmeter.harness.quality.datasets import open_dataset
from segmeter.harness.quality.evaluate import score_folder
from segmeter.harness.quality.fields import _check_polygons, check_box, run_lengths, whole
from segmeter.harness.quality.inference import Settings, predict_dataset
from segmeter.harness.quality.instance_ap import encode_mask, read_truth
from segmeter.harness.quality.panoptic import START_S, GroundSegment, score_maps, worthwhile
from segmeter.harness.quality.png_ids import segment_png
from segmeter.harness.quality.predictions import find_states, open_folder
from segmeter.harness.quality.truth import semantic_truth
from tests.harness.quality.test_evaluate import make_dataset, truth_map, write_predictions

INF = float("inf")
NONSENSE = [INF, -INF, float("nan"), -1, 1.5, 10**400, "1", "", None, True, [], [[]], {}, {"a": []}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", "coco")


@pytest.fixture
def own(tmp_path: Path, data: Path) -> Path:
    dataset = open_dataset("coco", data)
    return write_predictions(tmp_path / "own", dataset, [truth_map(i) for i in range(4)])


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    # Python writes Infinity, which is no JSON; 1e999 is, and reads as the same.
    path.write_text(json.dumps(content).replace("-Infinity", "-1e999").replace("Infinity", "1e999"))


def evaluate(data: Path, own: Path, capsys, *more: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--dataset", "coco", "--data", str(data), "--predictions", str(own), "--json",
              "--record", str(own.parent / "record.json"), *more])  # fmt: skip
    said = capsys.readouterr()
    assert said.out == "" or ended.value.code == 0
    assert "Traceback" not in said.err
    return int(ended.value.code), said.err


def annotations(data: Path) -> Path:
    return data / "annotations" / "panoptic_val2017.json"


SEGMENT = ("id", "category_id", "area", "iscrowd")


@pytest.mark.parametrize("value", NONSENSE, ids=str)
@pytest.mark.parametrize("field", SEGMENT)
def test_a_true_segment_s_fields_are_checked(data, own, capsys, field, value):
    if (field, value) == ("iscrowd", True):
        pytest.skip("a yes or no may be written so")
    edit(annotations(data), lambda c: c["annotations"][0]["segments_info"][0].update({field: value}))
    code, said = evaluate(data, own, capsys)
    if isinstance(value, float) and math.isnan(value):
        assert (code, said.count("\n")) == (2, 1) and "NaN is no number" in said
        return
    assert code == 1
    assert said.startswith("segmeter: annotation 0 (image 1), segment 0")


def test_an_area_of_0_is_no_area(data, own, capsys):
    edit(annotations(data), lambda c: c["annotations"][0]["segments_info"][0].update(area=0))
    code, said = evaluate(data, own, capsys)
    assert code == 1 and "its area is 0, expected a whole number from 1" in said


@pytest.mark.parametrize("value", [v for v in NONSENSE if v not in ("1", -1)], ids=str)
@pytest.mark.parametrize("field", ["image_id", "file_name", "segments_info"])
def test_an_annotation_s_fields_are_checked(data, own, capsys, field, value):
    if (field, value) == ("segments_info", []):
        pytest.skip("an image may have no segment")
    edit(annotations(data), lambda c: c["annotations"][0].update({field: value}))
    code, said = evaluate(data, own, capsys)
    assert code in (1, 2) and said.startswith("segmeter: ")


@pytest.mark.parametrize("value", NONSENSE, ids=str)
@pytest.mark.parametrize("field", ["id", "name", "isthing"])
def test_a_category_s_fields_are_checked(data, own, capsys, field, value):
    if (field, value) in (("isthing", True), ("name", "1")):
        pytest.skip("may be written so")
    edit(annotations(data), lambda c: c["categories"][0].update({field: value}))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1)


@pytest.mark.parametrize("where", ["annotations", "images", "categories"])
@pytest.mark.parametrize("row", [None, 3, "abc", [], [[]], {}], ids=str)
def test_rows_that_are_no_objects_are_told(data, own, capsys, where, row):
    edit(annotations(data), lambda c: c[where].__setitem__(0, row))
    code, said = evaluate(data, own, capsys)
    assert code in (1, 2) and said.startswith("segmeter: ")


@pytest.mark.parametrize("side", [INF, -8, 0, 8.5, 10**400, "8", [8], 10**9])
def test_an_image_s_size_is_checked(data, own, capsys, side):
    edit(annotations(data), lambda c: c["images"][0].update(height=side))
    code, said = evaluate(data, own, capsys)
    assert code == 1 and "a side of its image is" in said


def test_an_image_that_is_listed_twice_is_a_fault(data, own, capsys):
    edit(annotations(data), lambda c: c["images"].append(c["images"][1]))
    code, said = evaluate(data, own, capsys)
    assert code == 1 and said.startswith("segmeter: image 11 is listed twice")


# Predictions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [v for v in NONSENSE if v != "1"], ids=str)
@pytest.mark.parametrize("field", ["id", "category_id"])
def test_a_predicted_segment_s_fields_are_checked(data, own, capsys, field, value):
    edit(own / "panoptic.json", lambda c: c["annotations"][0]["segments_info"][0].update({field: value}))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1)


def test_a_prediction_of_an_image_that_there_is_not_is_a_fault(data, own, capsys):
    edit(own / "panoptic.json", lambda c: c["annotations"].append({**c["annotations"][0], "image_id": 999}))
    code, said = evaluate(data, own, capsys)
    assert code == 1 and said.startswith("segmeter: image 999: predicted, but the data set has no such image")
    assert evaluate(data, own, capsys, "--skip-faulty")[0] == 0


def test_predictions_beyond_a_limit_are_no_fault(data, own, capsys):
    assert evaluate(data, own, capsys, "--limit", "2")[0] == 0


@pytest.mark.parametrize("value", [v for v in NONSENSE if v != "1"], ids=str)
@pytest.mark.parametrize("field", ["image_id", "category_id", "score", "segmentation"])
def test_an_instance_s_fields_are_checked(data, own, capsys, field, value):
    edit(own / "instances.json", lambda c: c[0].update({field: value}))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "counts",
    [[8 * 400], 3200, -1, INF, None, "", "1", "\x01", "é", "o" * 50, "m", "0" * 3200, "Z", "a^{", [[1]], {}],
    ids=str,
)
def test_run_lengths_that_fill_no_picture_are_told(data, own, capsys, counts):
    edit(own / "instances.json", lambda c: c[0]["segmentation"].update(counts=counts))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert "instance prediction 0 (image 1)" in said


@pytest.mark.parametrize("size", [8.5, None, True, "8", {}, [[8], 400], [8], [400, 8], [INF, 8], []], ids=str)
def test_a_mask_s_size_is_its_image_s(data, own, capsys, size):
    edit(own / "instances.json", lambda c: c[0]["segmentation"].update(size=size))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert "needs a mask of size" in said


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_are_those_that_pycocotools_wrote(mask: np.ndarray) -> None:
    counts = run_lengths(encode_mask(mask)["counts"])
    # Column by column, outside first.
    flat, inside, position = mask.ravel(order="F"), False, 0
    for count in counts.tolist():
        assert (flat[position : position + count] == inside).all()
        position, inside = position + count, not inside
    assert position == mask.size


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_other_text_has_no_run_below_0(text: str) -> None:
    try:
        counts = run_lengths(text)
    except ValueError as error:
        assert "run lengths" in str(error)
        return
    assert (counts >= 0).all()


# Instance ground truth ------------------------------------------------------------------------------------


def true_instances() -> dict:
    square = [10.0, 1.0, 20.0, 1.0, 20.0, 5.0, 10.0, 5.0]
    about = {"image_id": 1, "category_id": 3, "area": 40.0, "iscrowd": 0, "bbox": [10, 1, 10, 4]}
    crowd = {"size": [8, 400], "counts": [16, 80, 3104]}
    return {
        "images": [{"id": i, "height": h, "width": 400} for i, h in ((1, 8), (11, 8), (21, 16), (31, 8))],
        "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 7, **about, "segmentation": [square]},
            {"id": 8, **about, "iscrowd": 1, "area": 80, "segmentation": crowd},
        ],
    }


def test_a_good_instances_file_is_read(data, own, capsys):
    (data / "annotations/instances_val2017.json").write_text(json.dumps(true_instances()))
    assert evaluate(data, own, capsys)[0] == 0


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "abc", 3, [3], [None], [{}]], ids=str)
def test_an_instances_file_without_its_lists_is_told(data, own, capsys, key, value):
    content = {**true_instances(), key: value}
    if value is None:
        del content[key]
    (data / "annotations/instances_val2017.json").write_text(json.dumps(content))
    code, said = evaluate(data, own, capsys)
    assert (code, said.count("\n")) == (2, 1) and "instances_val2017.json" in said


@pytest.mark.parametrize("value", NONSENSE, ids=str)
@pytest.mark.parametrize(
    ("row", "field"),
    [
        *(("images", field) for field in ("id", "height", "width")),
        ("categories", "id"),
        *(("annotations", f) for f in ("id", "image_id", "category_id", "area", "iscrowd", "segmentation")),
    ],
)
def test_an_instances_file_s_fields_are_checked(row, field, value):
    if (field, value) == ("iscrowd", True) or (row, field, value) == ("annotations", "area", 1.5):
        pytest.skip("may be written so")
    content = true_instances()
    content[row][0][field] = value
    with pytest.raises(ValueError) as told:
        read_truth(content, Path("instances.json"))
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


@pytest.mark.parametrize(
    "polygon",
    [[0, 0, 1, 1], [0] * 7, [INF] * 6, [1e30] * 6, [float("nan")] * 6, ["a"] * 6, [None] * 6, [9e9, 0] * 3],
    ids=str,
)
def test_a_polygon_far_from_its_image_is_not_drawn(polygon):
    # pycocotools draws every pixel of an edge: between points 9e9 apart that is all of the memory.
    content = true_instances()
    content["annotations"][0]["segmentation"] = [polygon]
    with pytest.raises(ValueError, match=r"instances.json: annotation 0 has the (polygon|coordinate)"):
        read_truth(content, Path("instances.json"))


def test_ids_that_stand_twice_are_refused():
    for row in ("images", "annotations"):
        content = true_instances()
        content[row][1]["id"] = content[row][0]["id"]
        with pytest.raises(ValueError, match=r"an earlier one has|must differ"):
            read_truth(content, Path("instances.json"))


# Scores ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 39))
def test_no_segment_matches_by_more_than_itself(area: int) -> None:
    ids = np.ones((5, 8), np.uint32)
    truth = [GroundSegment(1, 3, area)]
    with pytest.raises(ValueError, match=f"has the area {area} in the JSON, but 40 of its pixels"):
        score_maps(ids, ids, truth, {1: 3}, {3: True})


def test_more_classes_than_a_picture_holds_are_told(tmp_path):
    entry = open_dataset("coco", make_dataset(tmp_path / "data", "coco")).entries[0]
    many = {category: index for index, category in enumerate(range(300))}
    with pytest.raises(ValueError, match="at most 255 classes, not 300"):
        semantic_truth(np.ones((8, 400), np.uint32), entry, many)


def test_miou_is_left_out_where_its_pictures_could_not_hold_the_classes(data, own):
    edit(
        annotations(data),
        lambda c: c["categories"].extend({"id": i, "name": f"c{i}", "isthing": 0} for i in range(10, 300)),
    )
    dataset = open_dataset("coco", data)
    scores = score_folder(dataset, dataset.entries, own, 1)
    assert scores.semantic is None and scores.panoptic is not None
    assert any(note.startswith("no mIoU") for note in scores.notes)


class Sure(torch.nn.Module):
    """A model of 300 classes that gives class 299 to every pixel: 43 in eight bits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.encoder = torch.nn.Identity()

    def forward(self) -> None: ...


def test_our_own_predictions_write_no_class_modulo_256(tmp_path, data, monkeypatch):
    from segmeter.harness.quality import inference

    edit(
        annotations(data),
        lambda c: c["categories"].extend({"id": i, "name": f"c{i}", "isthing": 0} for i in range(10, 307)),
    )
    dataset = open_dataset("coco", data)
    assert len(dataset.categories) == 300
    logits = torch.full((1, 1, 301), -9.0)
    logits[..., 299] = 9.0
    masks = torch.full((1, 1, 8, 400), 9.0)

    def segment(model, images, rule, settings):
        height, width = images[0].shape[:2]
        return SegmentationOutput(semantic=None, masks=masks[..., :height, :width], class_logits=logits)

    monkeypatch.setattr(inference, "segment", segment)
    predict_dataset(Sure(), dataset, dataset.entries[:1], tmp_path / "out", Settings(), {})
    assert list((tmp_path / "out/semantic").iterdir()) == []
    assert find_states(tmp_path / "out").keys() == {1}


# Work -----------------------------------------------------------------------------------------------------


def test_processes_are_started_for_work_that_is_worth_them():
    # 2.1 ms an image: 300 images are 0.6 s, less than a process takes to start.
    assert worthwhile(300 * 0.0021, 2) == 1
    assert worthwhile(5000 * 0.0021, 2) == 2
    assert worthwhile(5000 * 0.0021, 64) == 10
    for seconds in (0.1, 1.9, 2.0, 7.5, 100.0):
        for cores in (1, 2, 8):
            count = worthwhile(seconds, cores)
            assert 1 <= count <= cores
            # Never slower than one process, by this very reckoning.
            assert count == 1 or START_S + seconds / count <= seconds


def test_a_second_process_in_a_folder_is_told_of_the_first(tmp_path, data):
    dataset = open_dataset("coco", data)
    out = tmp_path / "out"
    open_folder(out, {})
    for held, share in (("0-of-1", (0, 1)), ("1-of-2", (0, 1)), ("0-of-1", (1, 2)), ("1-of-2", (1, 2))):
        (out / "state" / f"{held}.jsonl").touch()
        with (
            locked(out / "state" / f"{held}.jsonl"),
            pytest.raises(ValueError, match="another process is pred"),
        ):
            predict_dataset(Sure(), dataset, dataset.entries, out, Settings(), {}, *share)
    # The two processes of one torchrun go together.
    with locked(out / "state" / "1-of-2.jsonl"):
        assert predict_dataset(Sure(), dataset, [], out, Settings(), {}, 0, 2) == []


@pytest.mark.parametrize(
    "line",
    [b"[" * 20_000, b"{}", b"3", b'{"image_id": [1]}', b'{"image_id": 1}', b"\xff", b'{"image_id": "../x"}'],
)
def test_a_line_that_is_no_result_is_not_done(tmp_path, line):
    open_folder(tmp_path, {})
    (tmp_path / "state" / "0-of-1.jsonl").write_bytes(line + b"\n")
    assert find_states(tmp_path) == {}


def test_a_pixel_at_the_threshold_is_all_that_rounding_needs():
    """A mask is where its logits are above 0: one pixel at 1e-7 gives half of the class's score, or nothing.

    That is what sets the scores of two numbers of threads apart: sums in another order round differently in
    the seventh digit, and a pixel (or, inside the decoder, a place of the attention) changes sides.
    """
    logits, masks = torch.full((1, 1, 2), -9.0), torch.full((1, 1, 4, 4), -9.0)
    logits[0, 0, 0] = 9.0
    scores = []
    for rounding in (1e-7, -1e-7):
        masks[0, 0, 0, 0] = rounding
        (found,) = instances(SegmentationOutput(semantic=None, masks=masks, class_logits=logits))
        scores.append(found.scores[0].item())
    assert scores == pytest.approx([0.5, 0.0], abs=1e-4)


def test_whole_numbers_are_those_alone():
    assert whole(3.0, "x") == whole(3, "x") == 3
    assert whole(2, "x", 2, 2) == 2
    for least, most in ((3, 9), (0, 1)):
        with pytest.raises(ValueError, match=f"x is 2, expected a whole number from {least} to {most}$"):
            whole(2, "x", least, most)
    # A bound that no sensible number reaches is not told.
    with pytest.raises(ValueError, match=r"expected a whole number from 0$"):
        whole(-1, "x")


@pytest.mark.parametrize("box", [[], [1, 2, 3], [0, 0, -1, 1], [0, 0, 1, INF], [0, True, 1, 1], None, "1234"])
def test_a_box_is_four_numbers_of_which_two_are_sides(box):
    with pytest.raises(ValueError, match="expected left, top, width and height in pixels"):
        check_box(box, "it")
    assert check_box([-1, 0.5, 0, 2], "it") == [-1.0, 0.5, 0.0, 2.0]


def test_a_polygon_may_reach_one_image_beyond_its_own_and_no_farther():
    height, width = 8, 400
    for far, is_read in ((2 * width + 2, True), (2 * width + 3, False)):
        polygons = [[0, 0, far, 0, 0, height]]
        if is_read:
            _check_polygons(polygons, (height, width), "it")
        else:
            with pytest.raises(ValueError, match="far from the image"):
                _check_polygons(polygons, (height, width), "it")


def test_a_semantic_picture_of_16_bits_is_told(data, own, capsys):
    Image.fromarray(np.full((8, 400), 300, np.uint16)).save(own / "semantic" / "1.png")
    code, said = evaluate(data, own, capsys)
    assert code == 1 and "has mode I;16; a semantic PNG has one channel of 8 bits" in said
    segment_png(np.zeros((8, 400), np.uint32)).save(own / "semantic" / "1.png")
    assert evaluate(data, own, capsys)[0] == 1

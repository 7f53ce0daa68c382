"""Data sets with known answers, from the files on disk to the record; faults; going on; two processes."""

import json
import re
import resource
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmeter.commands.main import main
from segmeter.encoders.segmenter.model import build_masked_model
from segmeter.harness.models.spec import parse_model
from segmeter.harness.quality.datasets import check_folder, open_dataset
from segmeter.harness.quality.evaluate import model_cost, quality_record, score_folder
from segmeter.harness.quality.inference import Settings, predict_dataset
from segmeter.harness.quality.miou import confusion, mean_iou
from segmeter.harness.quality.png_ids import segment_png
from segmeter.harness.quality.predictions import find_states, gather, open_folder
from tests.helpers.in_process import forked as run
from tests.helpers.places import ROOT

CATEGORIES = [
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 5, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
]
# Long and thin: resized to 1333 pixels, they are 27 to 53 pixels high, which keeps the models quick.
SIZES = [(8, 400), (8, 400), (16, 400), (8, 400)]


def truth_map(index: int) -> np.ndarray:
    """Left to right: void, a car, a dog, sky; the last image has a crowd of cars too."""
    height, width = SIZES[index]
    ids = np.zeros((height, width), np.uint32)
    ids[:, 50:150], ids[:, 150:250], ids[:, 250:] = 1, 2, 70000
    if index == 3:
        ids[:, :50] = 4
    return ids


def segments_of(ids: np.ndarray) -> list[dict]:
    categories = {1: 3, 2: 5, 70000: 9, 4: 3}
    return [
        {
            "id": int(i), "category_id": categories[int(i)], "area": int((ids == i).sum()),
            "iscrowd": int(i == 4), "bbox": [0, 0, 1, 1],
        }
        for i in np.unique(ids) if i
    ]  # fmt: skip


def make_dataset(root: Path, name: str) -> Path:
    """A COCO panoptic or a Cityscapes-style data set of four images."""
    cityscapes = name == "cityscapes"
    pngs = root / ("gtFine/cityscapes_panoptic_val" if cityscapes else "panoptic_val2017")
    source = root / (
        "gtFine/cityscapes_panoptic_val.json" if cityscapes else "annotations/panoptic_val2017.json"
    )
    pictures = root / ("leftImg8bit/val" if cityscapes else "val2017")
    images, annotations = [], []
    for index, size in enumerate(SIZES):
        ids = truth_map(index)
        image_id = f"ulm_00000{index}_000019" if cityscapes else 10 * index + 1
        picture = f"ulm/{image_id}_leftImg8bit.png" if cityscapes else f"{image_id:012d}.jpg"
        png = f"{image_id}_gtFine_panoptic.png" if cityscapes else f"{image_id:012d}.png"
        for path in (pictures / picture, pngs / png, source):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / picture)
        segment_png(ids).save(pngs / png)
        listed = f"{image_id}_gtFine_leftImg8bit.png" if cityscapes else picture
        images.append({"id": image_id, "file_name": listed, "height": size[0], "width": size[1]})
        annotations.append({"image_id": image_id, "file_name": png, "segments_info": segments_of(ids)})
    source.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return root


def write_predictions(folder: Path, dataset, maps: list[np.ndarray], scores: float = 0.9) -> Path:
    """Any system's predictions: here the maps' segments with the truth's categories."""
    from segmeter.harness.quality.instance_ap import encode_mask

    open_folder(folder, {})
    panoptic, found = [], []
    for entry, ids in zip(dataset.entries, maps, strict=True):
        segment_png(ids).save(folder / "panoptic" / f"{entry.image_id}.png")
        info = [s for s in segments_of(ids)]
        panoptic.append(
            {"image_id": entry.image_id, "file_name": f"{entry.image_id}.png", "segments_info": info}
        )
        classes = np.full(ids.shape, 255, np.uint8)
        for segment in info:
            mask = ids == segment["id"]
            classes[mask] = dataset.class_of[segment["category_id"]]
            if segment["category_id"] != 9:
                one = {"image_id": entry.image_id, "category_id": segment["category_id"], "score": scores}
                found.append({**one, "segmentation": encode_mask(mask)})
        Image.fromarray(classes).save(folder / "semantic" / f"{entry.image_id}.png")
    (folder / "panoptic.json").write_text(json.dumps({"annotations": panoptic}))
    (folder / "instances.json").write_text(json.dumps(found))
    return folder


def record_of(dataset, folder: Path) -> dict:
    scores = score_folder(dataset, dataset.entries, folder, processes=1)
    assert not scores.faults
    return quality_record(scores, dataset, {"title": "test"})


@pytest.mark.parametrize("name", ["coco", "cityscapes"])
def test_the_truth_itself_scores_100_percent(tmp_path, name):
    dataset = open_dataset(name, make_dataset(tmp_path / "data", name))
    maps = [truth_map(index) for index in range(4)]
    maps[3][maps[3] == 4] = 0  # a crowd is not to be predicted
    record = record_of(dataset, write_predictions(tmp_path / "predicted", dataset, maps))
    assert [record[key] for key in ("pq", "sq", "rq", "ap")] == pytest.approx([100] * 4)
    # The crowd's 400 pixels of 3,200 + 1,600 + ... are cars in the semantic truth, and missed.
    cars = 100 * 8 * 3 + 100 * 16
    assert record["per_class"]["car"]["iou"] == pytest.approx(100 * cars / (cars + 400))
    assert record["per_class"]["sky"]["iou"] == pytest.approx(100)


def test_mistakes_of_known_size_give_known_scores(tmp_path):
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    maps = [truth_map(index) for index in range(4)]
    maps[0][:, 50:90] = 0  # car: 60 of 100 columns, IoU 0.6
    maps[1][maps[1] == 2] = 0  # dog: missed
    maps[2][:, :50] = 4  # a car on void alone: ignored
    maps[3][maps[3] == 4] = 0
    record = record_of(dataset, write_predictions(tmp_path / "predicted", dataset, maps))
    # Car: IoU 0.6 + 1 + 1 + 1 over 4. Dog: 3 of 4 found: 3 / (3 + 0.5). Sky: all.
    assert record["per_class"]["car"]["pq"] == pytest.approx(90)
    assert record["per_class"]["dog"]["pq"] == pytest.approx(100 * 3 / 3.5)
    assert record["per_class"]["dog"]["sq"] == pytest.approx(100)
    assert record["things"]["pq"] == pytest.approx((90 + 300 / 3.5) / 2)
    assert record["stuff"]["pq"] == pytest.approx(100)
    assert record["pq"] == pytest.approx((90 + 300 / 3.5 + 100) / 3)
    # mIoU of dog: 4,000 true pixels (columns 100, rows 8 + 8 + 16 + 8), 800 of them missed.
    assert record["per_class"]["dog"]["iou"] == pytest.approx(100 * 3200 / 4000)


def test_mean_iou_is_the_definition():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, (40, 50)).astype(np.uint8)
    predicted = generator.integers(0, 6, (40, 50)).astype(np.uint8)
    truth[truth == 4] = 255  # class 4 has no truth, but is predicted
    predicted[truth == 5] = 255  # class 5 is all missed
    truth[0], predicted[1, :20] = 255, 255
    ious = []
    for c in range(6):
        counted = truth != 255
        both = (truth == c) & (predicted == c)
        union = ((truth == c) | ((predicted == c) & counted)).sum()
        if (truth == c).any():
            ious.append(both.sum() / union)
    result = mean_iou(confusion(truth, predicted, 6))
    assert result.miou == pytest.approx(np.mean(ious), abs=1e-12)
    assert result.classes == 5 and np.isnan(result.per_class[4]) and result.per_class[5] == 0
    assert mean_iou(confusion(np.full((2, 2), 255), np.zeros((2, 2)), 3)) is None
    with pytest.raises(ValueError, match="the prediction has class 6"):
        confusion(truth, np.full_like(truth, 6), 6)


def break_prediction(folder: Path, what: str) -> None:
    png, listing = folder / "panoptic" / "11.png", folder / "panoptic.json"
    content = json.loads(listing.read_text())
    if what == "truncated png":
        png.write_bytes(png.read_bytes()[:60])
    elif what == "missing png":
        png.unlink()
    elif what == "no prediction":
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 11]
    elif what == "wrong category":
        content["annotations"][1]["segments_info"][0]["category_id"] = 77
    elif what == "id not in json":
        del content["annotations"][1]["segments_info"][0]
    elif what == "wrong size":
        segment_png(np.zeros((3, 3), np.uint32)).save(png)
    elif what == "no semantic":
        (folder / "semantic" / "11.png").unlink()
    listing.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated png", "11.png cannot be read"),
        ("missing png", "11.png is missing"),
        ("no prediction", "image 11: no panoptic prediction"),
        ("wrong category", "unknown category 77"),
        ("id not in json", "are in the PNG and not in the JSON"),
        ("wrong size", "the prediction is 3x3, the ground truth 8x400"),
        ("no semantic", "image 11, semantic: .*11.png is missing"),
    ],
)
def test_a_faulty_prediction_is_named_and_stops_the_score(tmp_path, capsys, what, message):
    data = make_dataset(tmp_path / "data", "coco")
    dataset = open_dataset("coco", data)
    maps = [np.where(truth_map(index) == 4, 0, truth_map(index)) for index in range(4)]
    folder = write_predictions(tmp_path / "predicted", dataset, maps)
    break_prediction(folder, what)
    record = tmp_path / "record.json"
    command = ["evaluate", "--dataset", "coco", "--data", data, "--predictions", folder, "--record", record]
    code, out, err = called(capsys, *command)
    assert code == 1 and "PQ" not in out and not record.exists()
    assert "1 fault in all; no score was made" in err
    code, out, _ = called(capsys, *command, "--skip-faulty", "--json")
    skipped = json.loads(out)
    assert code == 0 and json.loads(record.read_text()) == skipped
    assert skipped["fault_count"] == 1 and len(skipped["faults"]) == 1
    assert re.search(message, skipped["faults"][0])


def called(capsys, *arguments) -> tuple[int, str, str]:
    """The command line in this process: exit code, what it printed, what it said on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=999), "of image 999, which the file does not list"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "a second one of image 1"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=4), "unknown category 4"),
        (lambda c: c["annotations"][0].pop("file_name"), "annotation 0 lacks 'file_name'"),
    ],
)
def test_annotations_that_cannot_be_used_are_faults(tmp_path, change, message):
    root = make_dataset(tmp_path, "coco")
    source = root / "annotations/panoptic_val2017.json"
    content = json.loads(source.read_text())
    change(content)
    source.write_text(json.dumps(content))
    (fault,) = open_dataset("coco", root).faults
    assert message in fault


def test_a_missing_piece_is_told_with_its_place(tmp_path):
    root = make_dataset(tmp_path, "cityscapes")
    found = {piece.what: piece for piece in check_folder(root)}
    assert {piece.dataset for piece in found.values()} == {"cityscapes"}
    assert found["images"].files == 4 and found["panoptic annotations"].found
    shutil.rmtree(root / "gtFine/cityscapes_panoptic_val")
    told = run("datasets", "check", root)
    assert "missing  cityscapes panoptic pictures" in told.stdout and "createPanopticImgs.py" in told.stdout
    with pytest.raises(
        ValueError, match=r"panoptic pictures are missing: expected .*cityscapes_panoptic_val"
    ):
        open_dataset("cityscapes", root)
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        open_dataset("cocoa", root)
    (root / "gtFine/cityscapes_panoptic_val").mkdir()
    (root / "gtFine/cityscapes_panoptic_val.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="is not valid JSON"):
        open_dataset("cityscapes", root)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A PRO-SCALE of three classes that is sure of what it says: random weights, sharp class scores."""
    torch.manual_seed(0)
    model = build_masked_model("pro-scale", "r50", 3, 20, stages=(1, 1, 1))
    with torch.no_grad():
        model.decoder.class_embed.weight.mul_(60)
        model.decoder.query_feat.weight.mul_(3)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def evaluated(weights: Path, data: Path, out: Path, *more) -> dict:
    done = run(
        *("evaluate", "--weights", weights, "--dataset", "coco", "--data", data, "--out", out),
        *("--record", out.with_suffix(".json"), "--json", *more),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def same_scores(a: dict, b: dict) -> bool:
    different = {"seconds_per_image", "batch"}
    return {k: v for k, v in a.items() if k not in different} == {
        k: v for k, v in b.items() if k not in different
    }


def test_a_run_that_was_stopped_goes_on_where_it_stopped(weights, tmp_path):
    data = make_dataset(tmp_path / "data", "coco")
    whole = evaluated(weights, data, tmp_path / "whole")
    assert whole["model"] == "pro-scale@r50:stages=1,1,1" and whole["images"] == 4
    assert 0 <= whole["pq"] <= 100 and whole["miou"] > 0 and whole["seconds_per_image"]["min"] > 0
    out = tmp_path / "stopped"
    evaluated(weights, data, out, "--limit", "2")
    state = out / "state" / "0-of-1.jsonl"
    first, second = state.read_text().splitlines(keepends=True)
    state.write_text(first + second[:40])  # killed while it wrote the second line
    assert list(find_states(out)) == [1]
    again = evaluated(weights, data, out, "--batch", "2")
    assert state.read_text().startswith(first)  # image 1 was not predicted anew
    # A batch sums in another order, so that only the pictures' rounding could differ; here none does.
    assert same_scores(again, whole)
    other = run("evaluate", "--weights", weights, "--dataset", "coco", "--data", data, "--out", out,
                "--dtype", "bfloat16")  # fmt: skip
    assert (
        other.returncode == 2
        and "another run's predictions: dtype 'float32', not 'bfloat16'; choose another folder"
        in other.stderr
    )


def test_two_processes_give_the_figures_of_one(weights, tmp_path):
    data = make_dataset(tmp_path / "data", "coco")
    alone = evaluated(weights, data, tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port,
               "cli.py", "evaluate", "--weights", weights, "--dataset", "coco", "--data", data,
               "--out", tmp_path / "two", "--record", tmp_path / "two.json"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "two/state").iterdir()) == ["0-of-2.jsonl", "1-of-2.jsonl"]
    assert same_scores(json.loads((tmp_path / "two.json").read_text()), alone)


def test_an_unreadable_image_is_named_and_the_others_are_predicted(weights, tmp_path):
    from segmeter.harness.weights.load import load_model

    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    broken, missing = dataset.entries[1].image, dataset.entries[3].image
    broken.write_bytes(broken.read_bytes()[:300])
    missing.unlink()
    model, _, _ = load_model(weights)
    faults = predict_dataset(model, dataset, dataset.entries, tmp_path / "out", Settings(), {})
    assert [fault.partition(":")[0] for fault in faults] == ["image 11", "image 31"]
    assert sorted(gather(tmp_path / "out", dataset.entries)) == [1, 21]
    assert sorted(find_states(tmp_path / "out")) == [1, 21]


def test_a_full_disk_is_named_and_the_run_goes_on_later(weights, tmp_path):
    from segmeter.harness.weights.load import load_model

    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    model, _, _ = load_model(weights)
    out, soft_hard = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    predict_dataset(model, dataset, dataset.entries[:1], out, Settings(), {})
    state = out / "state" / "0-of-1.jsonl"
    # The file system takes a few bytes of the second image's line, and then no more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size + 10, soft_hard[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write into .*out: .*give the same command again"):
            predict_dataset(model, dataset, dataset.entries, out, Settings(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
    assert list(find_states(out)) == [1]
    assert not [path for path in out.rglob(".*") if path.is_file()]
    predict_dataset(model, dataset, dataset.entries, out, Settings(), {})
    assert sorted(gather(out, dataset.entries)) == [1, 11, 21, 31]
    assert len(json.loads((out / "panoptic.json").read_text())["annotations"]) == 4


def test_the_cost_is_the_mean_over_the_images_scored(tmp_path):
    from segmeter.harness.counting.count import count_model
    from segmeter.harness.inputs.sizes import from_image

    dataset = open_dataset("coco", make_dataset(tmp_path, "coco"))
    spec = parse_model("m2f@r50", num_classes=3)
    cost = model_cost(spec, dataset.entries, dataset.rule)
    small, large = (count_model(spec, from_image(size, dataset.rule), "published").figures.total
                    for size in ((8, 400), (16, 400)))  # fmt: skip
    assert cost["total_gmacs"] == pytest.approx((3 * small + large) / 4 / 1e9)
    assert cost["distinct_sizes"] == 2
    assert model_cost(spec, [replace(dataset.entries[0], size=None)], dataset.rule) is None


def test_weights_of_another_data_set_are_refused(weights, tmp_path):
    root = make_dataset(tmp_path, "coco")
    source = root / "annotations/panoptic_val2017.json"
    content = json.loads(source.read_text())
    content["categories"].append({"id": 10, "name": "sea", "isthing": 0})
    source.write_text(json.dumps(content))
    done = run(
        "evaluate", "--weights", weights, "--dataset", "coco", "--data", root, "--out", tmp_path / "out"
    )
    assert done.returncode == 2 and "has 3 classes, the data set 4" in done.stderr

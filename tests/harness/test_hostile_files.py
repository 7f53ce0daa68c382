"""A file must not act: none of its code runs, nothing outside its folder is touched, no bomb goes off."""

import contextlib
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from segmeter.commands.main import main
from segmeter.files import inside, plain_id, read_bytes
from segmeter.harness.inputs.photos import find_photos
from segmeter.harness.models.spec import parse_model
from segmeter.harness.quality.datasets import open_dataset
from segmeter.harness.quality.evaluate import score_folder
from segmeter.harness.quality.inference import Settings, read_image
from segmeter.harness.quality.png_ids import read_segment_png, segment_png
from segmeter.harness.quality.predict import photo_class_names, predict_photo
from segmeter.harness.records.runs import read_run
from segmeter.harness.tradeoff.realised import realised_savings
from segmeter.harness.tradeoff.records import read_records
from segmeter.harness.weights.checkpoint import read_checkpoint
from segmeter.harness.weights.load import load_model
from segmeter.harness.weights.pickle_calls import load_pickle
from tests.harness.quality.test_evaluate import make_dataset, truth_map, write_predictions
from tests.helpers.bounds import bounded
from tests.helpers.places import DATA

# Names like this one say that a file is in segmeter's names.
SIGN = "decoder.transformer_cross_attention_layers.0.norm.bias"
EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Enc: pass\n"


# A name in a file is no code -----------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder with code that leaves a marker when it is imported, however it is named."""
    marker = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(marker)))
    (tmp_path / "evil_module.py").write_text(EVIL.format(marker=str(marker)))
    (tmp_path / "evil.toml").write_text('model = "evil.py:Enc"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return marker


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code)


def names(folder: Path) -> list[str]:
    return [
        "evil.py:Enc",
        f"{folder}/evil.py:Enc",
        "evil.py:Enc@r50",
        "evil.toml",
        f"{folder}/evil.toml",
        "evil_module:Enc",
        "antigravity:x",
        "evil.py:Enc:width=3",
        "m2f@evil.py:Enc",
        "m2f:components.x=evil.py:Enc",
    ]


def safetensors_naming(path: Path, model: str) -> Path:
    weights = {
        "decoder.class_embed.weight": torch.zeros(4, 256),
        "decoder.query_feat.weight": torch.zeros(5, 8),
        SIGN: torch.zeros(1),
    }
    save_file(weights, path, {"segmeter.model": model})
    return path


@pytest.mark.parametrize("index", range(10))
def test_the_model_that_a_checkpoint_names_is_never_imported(trap, tmp_path, index, capsys):
    path = safetensors_naming(tmp_path / "weights.safetensors", names(tmp_path)[index])
    with pytest.raises(ValueError):
        load_model(path)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    data = make_dataset(tmp_path / "data", "coco")
    for command in (
        ("convert", path, "out.safetensors"),
        ("predict", photo, "--weights", path),
        ("evaluate", "--weights", path, "--dataset", "coco", "--data", data),
    ):
        assert run(*command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said
    assert not trap.exists()


def test_the_trap_does_spring_when_the_user_names_it(trap, tmp_path):
    # Without this, the test above would say nothing.
    parse_model(f"{tmp_path}/evil.py:Enc", own=True)
    assert trap.exists()


@pytest.mark.parametrize("index", range(10))
def test_a_record_names_no_code_either(trap, tmp_path, index):
    model = names(tmp_path)[index]
    runs = []
    for number, name in enumerate(("m2f@r50", model)):
        run = read_run(DATA / "run_version_1.json")
        run.id, run.model, run.status = f"run-{number}", name, "ok"
        run.components = {"encoder.ffn": {"ms": 1.0}}
        run.statistics = {"latency_ms": {"median": 1.0, "low": 0.9, "high": 1.1}}
        run.settings |= {"padded_size": "64x64", "num_classes": 19}
        runs.append(run)
    runs[1].ratios = [{"baseline": "run-0", "times_faster": 1.0, "low": 0.9, "high": 1.1}]
    with contextlib.suppress(ValueError):
        realised_savings(runs)
    quality = {
        "schema": "segmeter.quality/1",
        "model": model,
        "dataset": "cityscapes",
        "title": "x",
        "pq": 5.0,
    }
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "quality.json").write_text(json.dumps(quality))
    read_records(tmp_path / "records")
    assert not trap.exists()


# Nothing outside the folder ------------------------------------------------------------------------------

OUTSIDE = [
    "/tmp/x",
    "../../x",
    "a/../../x",
    "..",
    "a\\..\\..\\x",
    "C:\\x",
    "\\\\host\\x",
    "",
    " ",
    "a\0b",
    "a\nb",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError):
        inside(tmp_path, name)
    with pytest.raises(ValueError):
        plain_id(name)


@given(st.one_of(st.text(max_size=30), st.text("./\\a:~", max_size=12)))
def test_no_text_at_all_leads_out_of_its_folder(name):
    folder = Path("/somewhere/deep")
    try:
        path = inside(folder, name)
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(folder)


@pytest.mark.parametrize("value", [1.5, True, None, [], {}, 2**63, float("inf"), "a" * 300, "x.", "-rf/"])
def test_an_image_id_is_a_whole_number_or_a_plain_name(value):
    with pytest.raises(ValueError, match="image id"):
        plain_id(value)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("bad", ["{outside}/victim", "../../victim", "/etc/passwd"])
@pytest.mark.parametrize("where", ["id", "file_name", "image"])
def test_annotations_write_and_read_nothing_outside(tmp_path, bad, where):
    root = make_dataset(tmp_path / "data", "coco")
    bad = bad.format(outside=tmp_path)

    def change(content):
        image, annotation = content["images"][0], content["annotations"][0]
        if where == "id":
            image["id"] = annotation["image_id"] = bad
        elif where == "file_name":
            annotation["file_name"] = bad
        else:
            image["file_name"] = bad

    edit(root / "annotations/panoptic_val2017.json", change)
    dataset = open_dataset("coco", root)
    assert len(dataset.entries) == 3 and len(dataset.faults) == 1
    for entry in dataset.entries:
        assert entry.image.is_relative_to(root) and entry.truth_png.is_relative_to(root)


@pytest.mark.parametrize("bad", ["../../../../../../../../etc/passwd", "/dev/zero", "../../secret.png"])
def test_predictions_name_no_file_outside_their_folder(tmp_path, bad):
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    folder = write_predictions(tmp_path / "own", dataset, [truth_map(i) for i in range(4)])
    edit(folder / "panoptic.json", lambda content: content["annotations"][0].update(file_name=bad))
    said = bounded(score_folder, dataset, dataset.entries, folder, 1, mebibytes=256)
    assert "leads out of its folder" in said


def test_a_link_out_of_the_predictions_is_not_followed(tmp_path):
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    folder = write_predictions(tmp_path / "own", dataset, [truth_map(i) for i in range(4)])
    (folder / "panoptic" / "1.png").unlink()
    (folder / "panoptic" / "1.png").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="by a link"):
        score_folder(dataset, dataset.entries, folder, 1)


def test_devices_and_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        for read in (read_bytes, read_segment_png, read_image):
            said = bounded(read, path, mebibytes=64, seconds=5)
            assert said.startswith("ValueError") and ("regular file" in said or "a folder" in said)
    said = bounded(find_photos, [Path("/dev/zero")], mebibytes=64, seconds=5)
    assert "regular file" in said


def test_a_file_beyond_its_bound_is_not_read(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    assert "are read" in bounded(read_bytes, tmp_path / "large.json", mebibytes=64)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(path: Path, height: int, width: int, colour: int) -> Path:
    """An all-black PNG, whatever its size, in a few kilobytes."""
    row = width * (3 if colour == 2 else 1) + 1
    packer, parts = zlib.compressobj(9), []
    for _ in range(height):
        parts.append(packer.compress(bytes(row)))
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_prediction_of_another_size_is_not_unpacked(tmp_path, kind):
    dataset = open_dataset("coco", make_dataset(tmp_path / "data", "coco"))
    folder = write_predictions(tmp_path / "own", dataset, [truth_map(i) for i in range(4)])
    black_png(folder / kind / "1.png", 11500, 11500, 2 if kind == "panoptic" else 0)

    def score() -> None:
        faults = score_folder(dataset, dataset.entries, folder, 1).faults
        raise ValueError("; ".join(faults))

    said = bounded(score, mebibytes=300)
    assert "11500x11500" in said and "image 1" in said


def test_a_truth_of_another_size_than_annotated_is_not_unpacked(tmp_path):
    root = make_dataset(tmp_path / "data", "coco")
    black_png(root / "panoptic_val2017" / "000000000001.png", 11500, 11500, 2)
    dataset = open_dataset("coco", root)
    with pytest.raises(ValueError, match=r"it has 11500x11500 pixels, not 8x400"):
        read_segment_png(dataset.entries[0].truth_png, dataset.entries[0].size)


# Bombs ---------------------------------------------------------------------------------------------------


def pickle_bomb(call: bytes, length: int, times: int) -> bytes:
    """One list of ``length`` small values, passed to a call again and again; all results are kept."""
    values = b"".join(b"J" + struct.pack("<i", number % 250) for number in range(length))
    head = b"\x80\x02]q\x00(" + values + b"e0](c" + call + b"\nq\x01h\x00\x85R"
    return head + b"h\x01h\x00\x85R" * times + b"e."


@pytest.mark.parametrize("call", [b"builtins\nset", b"builtins\nfrozenset", b"builtins\nbytes"])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_list_that_is_copied_again_and_again_is_refused(tmp_path, call, suffix):
    content = pickle_bomb(call, 16_000, 16_000)
    assert len(content) < 200_000
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(content)
    if suffix == ".pth":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    said = bounded(read_checkpoint, path, mebibytes=512)
    assert said.startswith("ValueError") and str(path) in said


def test_pairs_that_are_copied_again_and_again_are_refused(tmp_path):
    pairs = b"".join(b"J" + struct.pack("<i", number) + b"K\x00\x86" for number in range(16_000))
    head = b"\x80\x02]q\x00(" + pairs + b"e0](ccollections\nOrderedDict\nq\x01h\x00\x85R"
    path = tmp_path / "bomb.pkl"
    path.write_bytes(head + b"h\x01h\x00\x85R" * 16_000 + b"e.")
    assert "more than 2,000,000 values" in bounded(load_pickle, path, mebibytes=512)


@pytest.mark.parametrize(
    "content",
    [
        # Twenty million empty sets of 216 bytes each, or lists of 56: more than a gigabyte.
        b"\x80\x02(" + b"\x8f" * 20_000_000 + b"l.",
        b"\x80\x02(" + b"]" * 20_000_000 + b"l.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # memo number 2^31 - 1: pickle's own memo would be 32 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b"abc.",
        b"\x80\x02(" + b"2" * 50_000_000 + b"l.",
    ],
    ids=["sets", "lists", "memo", "length", "dup"],
)
def test_a_pickle_is_bound_as_it_is_built(tmp_path, content):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    said = bounded(load_pickle, path, mebibytes=768, seconds=30)
    assert said == "" or said.startswith(("ValueError", "UnsafePickleError"))


def test_keys_of_one_hash_are_refused(tmp_path):
    # Python's hash of a whole number is its rest by 2^61 - 1: a dict of these takes quadratic time.
    numbers = [((2**61 - 1) * (k + 1)).to_bytes(10, "little", signed=True) for k in range(100_000)]
    content = b"\x80\x02}(" + b"".join(b"\x8a\x0a" + n + b"N" for n in numbers) + b"u."
    (tmp_path / "bomb.pkl").write_bytes(content)
    assert "a key of" in bounded(load_pickle, tmp_path / "bomb.pkl", seconds=10)


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [bytearray, bytes])
def test_bytes_that_a_torch_file_asks_for_are_not_made(tmp_path, kind, legacy):
    path = tmp_path / "model.pth"
    torch.save({"a": Calls(kind, 3 * 10**9)}, path, _use_new_zipfile_serialization=not legacy)
    assert path.stat().st_size < 2000
    said = bounded(read_checkpoint, path, mebibytes=128, seconds=5)
    assert "made out of a int" in said or "refused" in said


def test_a_zip_of_a_million_members_is_refused(tmp_path):
    # Each entry of the directory is 46 bytes and a name; Python's reader makes an object of 600 for each.
    path = tmp_path / "model.pth"
    entry = b"PK\x01\x02" + struct.pack(
        "<HHHHHHIIIHHHHHII", *(20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    )
    directory = (entry + b"a") * 1_000_000
    locator = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), 0)
    locator += b"PK\x06\x07" + struct.pack("<IQI", 0, len(directory), 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(directory + locator + end)
    assert "zip directory" in bounded(read_checkpoint, path, mebibytes=128, seconds=5)


@pytest.mark.parametrize("number", ["999", "999999", "9" * 4000])
def test_a_layer_number_alone_builds_no_layers(tmp_path, number):
    weights = {
        "decoder.class_embed.weight": torch.zeros(20, 256),
        "decoder.query_feat.weight": torch.zeros(100, 256),
        SIGN: torch.zeros(1),
        f"encoder.transformer.encoder.layers.{number}.self_attn.sampling_offsets.weight": torch.zeros(
            192, 256
        ),
        "encoder.layer_1.weight": torch.zeros(2, 2),
        "backbone.trunk.layer3.0.conv1.weight": torch.zeros(2, 2),
    }
    save_file(weights, tmp_path / "weights.safetensors")
    said = bounded(load_model, tmp_path / "weights.safetensors", seconds=5)
    assert said.startswith("ValueError")


@pytest.mark.parametrize("options", ["layers=1000", "layers=13"])
def test_layers_that_only_the_metadata_has_are_not_built(tmp_path, options):
    path = safetensors_naming(tmp_path / "weights.safetensors", f"m2f@r50:{options}")
    assert "holds entries of 0 of them" in bounded(load_model, path, seconds=5)


def test_a_photo_of_169_megapixels_is_one_line(tmp_path, capsys):
    photo = black_png(tmp_path / "large.png", 13_000, 13_000, 0)
    spec = parse_model("m2f@r50")
    names = photo_class_names(spec)
    said = bounded(predict_photo, None, spec, photo, names, "coco", Settings(), mebibytes=128)
    assert "13000x13000 pixels" in said
    weights = safetensors_naming(tmp_path / "weights.safetensors", "m2f@r50")
    assert run("predict", photo, "--weights", weights) == 2
    assert "13000x13000 pixels" in capsys.readouterr().err


def test_a_photo_in_a_format_that_starts_programs_is_no_photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n")
    with pytest.raises(ValueError, match="not an image"):
        find_photos([path])


# What is good is read as torch reads it -------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_is_read_as_torch_reads_it(tmp_path, legacy):
    shared = torch.arange(24.0)
    content = {
        "shared": shared,
        "view": shared.view(4, 6).t()[1:3],
        "expanded": torch.ones(1).expand(5, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "flags": torch.tensor([True, False]),
        "state": torch.nn.BatchNorm1d(3).state_dict(),
        "plain": {"epoch": 3, "lr": 0.1, "names": ["a", None], "size": torch.Size([1, 2])},
        **{str(d)[6:]: torch.arange(5).to(d) for d in (torch.int8, torch.uint8, torch.int16, torch.int64)},
    }
    if not legacy:
        content["eighth"] = torch.randn(4).to(torch.float8_e4m3fn)
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    from segmeter.harness.weights.torch_file import load_torch_file

    read, expected = load_torch_file(path), torch.load(path, weights_only=True)
    assert list(read) == list(expected)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert read[name].dtype == value.dtype and read[name].shape == value.shape
            assert read[name].stride() == value.stride()
            assert torch.equal(read[name].double(), value.double())
    assert read["plain"] == {"epoch": 3, "lr": 0.1, "names": ["a", None], "size": (1, 2)}
    assert read["state"].keys() == expected["state"].keys()
    assert read["shared"].untyped_storage().data_ptr() == read["view"].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.ones(3).to_sparse(), "sparse"),
        (lambda: torch.ones(2, 2).to_sparse_csr(), "sparse"),
        (lambda: torch.empty(3, device="meta"), "meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
    ],
    ids=["sparse", "csr", "meta", "quantised"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_arrays_are_refused_by_kind(tmp_path, make, kind):
    path = tmp_path / "model.pth"
    torch.save({"model": {"sem_seg_head.a": make()}}, path)
    with pytest.raises(ValueError, match=kind):
        read_checkpoint(path)


def test_a_longdouble_pickle_is_refused(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"sem_seg_head.a": np.zeros(2, np.longdouble)}))
    with pytest.raises(ValueError, match="only numbers are read"):
        read_checkpoint(path)


def test_segment_ids_of_a_good_file_are_read_with_its_size(tmp_path):
    ids = np.arange(12, dtype=np.uint32).reshape(3, 4)
    segment_png(ids).save(tmp_path / "ids.png")
    assert np.array_equal(read_segment_png(tmp_path / "ids.png", (3, 4)), ids)

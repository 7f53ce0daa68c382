"""MACs of the token-reducing models equal the official ones' to the integer, module group by module group."""

from collections import Counter

import pytest

from segmeter.harness.counting.conventions import apply_convention, units_of
from segmeter.harness.counting.counter import Count, run_and_count
from segmeter.harness.counting.work import work_of
from segmeter.harness.inputs.sizes import ImageSize
from segmeter.harness.models.components import component_finder
from segmeter.harness.models.spec import parse_model
from segmeter.harness.models.stages import find_components, parameters, real_model
from tests.helpers.reduction_recipe import fill, flops, images

SEGMENTER, SEGFORMER = flops()["segmenter"], flops()["segformer"]
# GMACs that the papers print for all tokens.
PUBLISHED = {
    ("t", 512): 12.8,
    ("s", 512): 38.6,
    ("b", 512): 130,
    ("l", 640): 672,
    ("s", 768): 116,
    ("s", 480): 32.1,
}
# The published setting, and the records of other windows and layers.
COUNTED = [r for r in SEGMENTER if r["model"] == "t" and r["merging"] and r["photo"] == "coffee"]
COUNTED = [COUNTED[0], *COUNTED[-3:]]


def groups(count: Count) -> Counter[str]:
    """MACs of the official module groups, as the records count them."""
    found: Counter[str] = Counter()
    for work in count.work:
        if units_of(work, "", "published") == 0:
            continue
        parts = work.module.split(".")
        deep = 3 if parts[:2] == ["encoder", "blocks"] else 2 if parts[0] == "encoder" else 1
        found[".".join(parts[:deep])] += work.macs
    return found


def in_order(found: Counter[str], record: dict) -> dict[str, object]:
    return {
        "patch_embed": found["encoder.patch_embed"],
        "blocks": [found[f"encoder.blocks.{number}"] for number in range(len(record["macs"]["blocks"]))],
        "encoder_norm": found["encoder.norm"],
        "decoder": found["decoder"],
        "final_upsampling": found["postprocess"],
        "total": sum(found.values()),
    }


@pytest.mark.parametrize(
    "record", [r for r in SEGMENTER if not r["merging"]], ids=lambda r: f"{r['model']}-{r['side']}"
)
def test_segmenter_without_merging(record: dict) -> None:
    model = {"t": "ti"}.get(record["model"], record["model"])
    spec = parse_model(f"segmenter@vit-{model}:num_classes={record['classes']}:train_size={record['side']}")
    side = record["side"]
    count = work_of(spec, ImageSize((side, side), (side, side)))
    assert in_order(groups(count), record) == record["macs"]
    total = apply_convention(count, find_components(spec), "published").total
    printed = PUBLISHED[record["model"], side]
    assert float(f"{total / 1e9:.3g}") == printed


@pytest.mark.parametrize("record", COUNTED, ids=lambda r: str(r["merging"]))
def test_segmenter_with_algm_on_a_photograph(record: dict) -> None:
    merging = record["merging"]
    layers = ",".join(map(str, merging["selected_layers"]))
    window = ",".join(map(str, merging["window"]))
    model = real_model(
        parse_model(
            f"segmenter@vit-ti:num_classes={record['classes']}:reduction=algm:layers={layers}"
            f":window={window}:threshold={merging['threshold']}"
        )
    )
    fill(model)
    _, count = run_and_count(model, images([record["photo"]], record["side"]))
    found = groups(count)
    # The official figure books the matching with the block that it is in.
    found[f"encoder.blocks.{merging['selected_layers'][-1] - 1}"] += found.pop("encoder.reduction")
    assert in_order(found, record) == record["macs"]
    total = apply_convention(count, component_finder(model), "published").total
    assert total == record["macs"]["total"]


@pytest.mark.parametrize("record", SEGFORMER[::3], ids=lambda r: "-".join(map(str, r[:6])))
def test_segformer(record: list) -> None:
    name, classes, channels, height, width, merging, params, stages, head, total, bare = record
    ours = {"bsm_hq": "hq", "bsm_fast": "fast", "n2d_2x2": "2x2"}.get(merging, merging)
    spec = parse_model(
        f"segformer@mit-{name}:num_classes={classes}:head=mmseg:head_channels={channels}:merging={ours}"
    )
    count = work_of(spec, ImageSize((height, width), (height, width)))
    found: Counter[str] = Counter()
    for work in count.work:
        parts = work.module.split(".")
        place = ".".join(parts[:4]) if parts[0] == "backbone" else parts[0]
        found[place] += units_of(work, "", "published")
    assert [[found[f"backbone.layers.{i}.{part}"] for part in range(3)] for i in range(4)] == stages
    assert found["decode_head"] == head
    assert parameters(spec)[0] == params
    figures = apply_convention(count, find_components(spec), "published")
    assert figures.total == total
    left_out = ("layer_norm", "batch_norm", "upsample_bilinear", "upsample_nearest")
    assert figures.total - sum(figures.by_operator.get(name, 0) for name in left_out) == bare


def test_segformer_reaches_the_papers_column() -> None:
    """GMACs at 512 (B5: 640) on ADE20K, as the paper's counter counts: without norms and resizing."""
    printed = {"b0": 8.4, "b1": 15.9, "b2": 62.4, "b3": 79.0, "b4": 95.7, "b5": 183.3}
    for name, expected in printed.items():
        side = 640 if name == "b5" else 512
        spec = parse_model(f"segformer@mit-{name}:num_classes=150")
        figures = apply_convention(
            work_of(spec, ImageSize((side, side), (side, side))), find_components(spec), "published"
        )
        left_out = ("layer_norm", "batch_norm", "upsample_bilinear")
        bare = figures.total - sum(figures.by_operator.get(name, 0) for name in left_out)
        assert abs(bare / 1e9 / expected - 1) < 0.0015

"""Models as users write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.harness.models.spec import ModelSpec, model_from_parts, model_spec, parse_model


def test_the_written_form_has_every_part() -> None:
    spec = parse_model("pro-scale@r50:stages=1,1,3:pixel-embedding=conv", num_classes=19)
    assert (spec.encoder, spec.backbone, spec.num_classes, spec.num_queries) == (
        "pro-scale",
        "r50",
        19,
        100,
    )
    options = dict(spec.options)
    assert options["stages"] == (1, 1, 3) and options["pixel_embedding"] == "conv"
    assert spec.title == "PRO-SCALE (1,1,3) + 3x3 conv, R50"


@settings(deadline=None)
@given(
    stages=st.tuples(*[st.integers(0, 9)] * 3).filter(any),
    pixel_embedding=st.sampled_from(["conv", "lpe", "lpe-avg"]),
    recalibration=st.sampled_from(["linear", "conv", "paper", None]),
    backbone=st.sampled_from(["r50", "swin-l", "mvit-t"]),
)
def test_text_reads_back(stages: tuple[int, int, int], **options: object) -> None:
    spec = model_spec("pro-scale", stages=stages, **options)
    assert parse_model(spec.text) == spec


def test_swin_l_has_200_queries_unless_told_otherwise() -> None:
    assert parse_model("m2f@swin-l").num_queries == 200
    assert parse_model("m2f@swin-l", num_queries=50).num_queries == 50


def test_parts_join_and_must_not_clash() -> None:
    joined = model_from_parts("m2f", None, "r50", 133, None, {"layers": 3})
    assert joined == parse_model("m2f@r50:layers=3")
    for arguments, told in (
        ((None, None, None, 133, None, {}), "no encoder given"),
        (("m2f", "rt-m2f", None, 133, None, {}), "two values for the encoder"),
        (("m2f@r50", None, "r101", 133, None, {}), "two values for the backbone"),
        (("m2f:layers=2", None, None, 133, None, {"layers": 3}), "given twice"),
    ):
        with pytest.raises(ValueError, match=told):
            model_from_parts(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("m3f", "did you mean 'm2f'"),
        ("m2f@r5", "did you mean 'r50'"),
        ("m2f:layers", "expected OPTION=VALUE"),
        ("m2f:layers=x", "whole number"),
        ("m2f:layers=1:layers=2", "given twice"),
        ("pro-scale:stages=1,2,x", "whole numbers such as 3,3,3"),
        ("", "unknown encoder"),
    ],
)
def test_bad_text_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        parse_model(text)
    assert "\n" not in str(error.value)


def test_counts_must_be_sane() -> None:
    for arguments in ({"num_classes": 0}, {"num_classes": 10**9}, {"num_queries": 0}):
        with pytest.raises(ValueError, match="from 1 to"):
            model_spec("m2f", **arguments)  # type: ignore[arg-type]


def test_specs_are_keys() -> None:
    assert len({parse_model("m2f"), parse_model("m2f@swin-t"), parse_model("m2f:layers=6")}) == 1
    assert isinstance(parse_model("m2f"), ModelSpec)


def test_published_rows_that_cut_tokens_have_names() -> None:
    from segmeter.harness.models import REDUCTION_PRESETS, resolve_preset, usual_input

    for name in REDUCTION_PRESETS:
        assert parse_model(resolve_preset(name) or "").system.name in ("segmenter", "segformer")
    assert usual_input("algm.cityscapes")[0] == "768x768"
    assert usual_input("segformer++.hq")[0] == "640x640"

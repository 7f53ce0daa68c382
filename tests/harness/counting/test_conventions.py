"""What each convention counts, leaves out and attributes, on counts small enough to add up by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segmeter.harness.counting.conventions import (
    CONVENTIONS,
    OMISSIONS,
    Figures,
    apply_convention,
    mean_figures,
    units_of,
)
from segmeter.harness.counting.counter import Branch, Count, ModuleRun, UnknownOp, Work, run_and_count


def same(path: str) -> str:
    return path


def figures(*work: Work, convention: str = "published", unknown: tuple[UnknownOp, ...] = ()) -> Figures:
    return apply_convention(Count(work, unknown), same, convention)


FFN = Work("encoder.ffn", "linear", 1, 100, 210)
SAMPLING = Work("encoder.attention", "deform_sampling", 1, 40, 80)
VALUES = Work("encoder.attention", "linear", 2, 60, 120)
RELU = Work("encoder.activation", "elementwise", 1, 0, 7)
OTHER = Work("encoder_two.ffn", "linear", 1, 1000, 2000)


def test_a_component_holds_what_is_below_it_and_not_what_its_name_begins() -> None:
    found = figures(FFN, VALUES, OTHER)
    assert (found.of("encoder"), found.of("encoder_two"), found.total) == (160, 1000, 1160)
    assert (found.of("encoder.ffn"), found.of("encoder.f"), found.of("enc"), found.of("ffn")) == (
        100,
        0,
        0,
        0,
    )


def test_published_leaves_sampling_out_and_says_how_much() -> None:
    found = figures(FFN, SAMPLING, VALUES, SAMPLING)
    assert found.by_component == {"encoder.ffn": 100, "encoder.attention": 60}
    assert found.not_counted == {"deformable_sampling": 80}
    assert found.by_operator == {"linear": 160}
    macs = figures(FFN, SAMPLING, VALUES, SAMPLING, convention="macs")
    assert macs.by_component == {"encoder.ffn": 100, "encoder.attention": 140}
    assert macs.not_counted == {}
    assert macs.by_operator == {"linear": 160, "deform_sampling": 80}


def test_a_component_whose_work_is_left_out_stays_in_sight_and_one_without_work_does_not() -> None:
    found = figures(FFN, SAMPLING, RELU)
    assert found.by_component == {"encoder.ffn": 100, "encoder.attention": 0}
    assert figures(FFN, RELU, convention="macs").by_component == {"encoder.ffn": 100}
    assert figures(FFN, RELU, convention="flops").by_component == {
        "encoder.ffn": 210,
        "encoder.activation": 7,
    }


def test_coverage_is_the_counted_share_of_all_flops() -> None:
    work = (FFN, SAMPLING, RELU)
    # Sampling and the activation are out; then the activation; then nothing.
    expected = {"published": 210 / 297, "macs": 290 / 297, "flops": 1.0}
    for convention, share in expected.items():
        assert figures(*work, convention=convention).coverage == pytest.approx(share, rel=1e-12)
    assert figures(convention="macs").coverage == 1.0


def test_an_operator_without_a_formula_leaves_no_share() -> None:
    unknown = UnknownOp("encoder", "mylib::op", 2, ((1, 2),))
    for convention in CONVENTIONS:
        found = figures(FFN, convention=convention, unknown=(unknown,))
        assert found.coverage is None and found.not_counted == {"mylib::op": None}
        assert found.unknown == (unknown,)


def test_units_are_macs_or_flops_or_nothing() -> None:
    assert units_of(FFN, FFN.module, "published") == units_of(FFN, FFN.module, "macs") == 100
    assert units_of(FFN, FFN.module, "flops") == 210
    assert [units_of(SAMPLING, SAMPLING.module, c) for c in CONVENTIONS] == [0, 40, 80]


@pytest.mark.parametrize(
    ("component", "operator", "name"),
    [
        ("encoder.x", "deform_sampling", "deformable_sampling"),
        ("encoder.x", "deform_weighting", "deformable_weighting"),
        ("decoder.cross_attention", "attention_scores", "masked_attention_scores"),
        ("decoder.cross_attention.products", "attention_scores", "masked_attention_scores"),
        ("backbone.x", "upsample_linear", "linear_resizing"),
        ("decoder.cross_attention", "attention_values", None),
        ("decoder.self_attention", "attention_scores", None),
        ("backbone.x", "upsample_bilinear", None),
        ("encoder.x", "linear", None),
    ],
)
def test_what_is_left_out_and_what_is_not(component: str, operator: str, name: str | None) -> None:
    found = [omission.name for omission in OMISSIONS if omission.applies(component, operator)]
    assert found == ([] if name is None else [name])


def test_the_fpn_s_resizing_is_booked_with_the_head_s_and_only_its_resizing_is() -> None:
    place = "encoder.pixel_embedding.upsampling"
    resized = Work(place, "upsample_bilinear", 1, 8, 16)
    summed = Work(place, "linear", 1, 5, 10)
    assert figures(resized, summed).by_component == {"postprocess.fpn_upsampling": 8, place: 5}
    assert figures(resized, summed, convention="macs").by_component == {place: 13}


def test_a_mean_weighs_each_image_once() -> None:
    unknown = UnknownOp("a", "mylib::op", 1, ())
    one, three = figures(FFN, SAMPLING), figures(OTHER, RELU, unknown=(unknown,))
    mean = mean_figures([(one, 1), (three, 3)])
    assert mean.by_component == {"encoder.ffn": 25, "encoder.attention": 0, "encoder_two.ffn": 750}
    assert mean.total == (100 + 3 * 1000) / 4 == mean.least == mean.most
    assert mean.not_counted == {"deformable_sampling": 10, "mylib::op": None}
    assert mean.counted_flops == (210 + 3 * 2000) / 4
    assert mean.all_flops == (290 + 3 * 2007) / 4
    # An operator that only the second image met is not forgotten.
    assert mean.unknown == (unknown,) and mean.coverage is None


def test_a_range_counts_by_the_convention_s_units() -> None:
    alternatives = (Count((FFN,)), Count((SAMPLING,)), Count((RELU,)))
    count = Count((OTHER, FFN), branches=(Branch("", alternatives, 0),))
    reach = {c: (f.least, f.most) for c in CONVENTIONS if (f := apply_convention(count, same, c))}
    assert reach == {"published": (1000, 1100), "macs": (1000, 1100), "flops": (2007, 2210)}


def test_a_count_under_a_prefix_moves_everything_in_it() -> None:
    inner = Count((FFN,))
    count = Count(
        (FFN, Work("", "linear", 1, 1, 2)),
        (UnknownOp("a", "mylib::op", 1, ()),),
        (ModuleRun("", 1, (1, 2)),),
        (Branch("a", (inner, Count()), 0),),
    ).under("model")
    assert [w.module for w in count.work] == ["model.encoder.ffn", "model"]
    assert (count.unknown[0].module, count.runs[0].module) == ("model.a", "model")
    assert count.branches[0].module == "model.a"
    assert count.branches[0].alternatives[0].work[0].module == "model.encoder.ffn"
    twice = count + count
    assert (len(twice.work), len(twice.unknown), len(twice.runs), len(twice.branches)) == (4, 2, 2, 2)


class Repeats(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.shared = parts[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.parts[0](self.parts[0](x)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_calls_runs_and_unknown_operators_add_up(device: str) -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv_ex(torch.linalg.inv_ex(x)[0])[0]

    x = torch.eye(3, device=device)
    _, count = run_and_count(Repeats(nn.Linear(3, 3, device=device)), x)
    assert [(w.module, w.calls, w.macs, w.output_bytes) for w in count.work] == [("parts.0", 3, 81, 3 * 36)]
    assert {(r.module, r.calls, r.output) for r in count.runs} == {("parts.0", 3, (3, 3)), ("", 1, (3, 3))}
    _, count = run_and_count(Repeats(Inverse()), x)
    assert [(u.module, u.operator, u.calls, u.shapes) for u in count.unknown] == [
        ("parts.0", "aten::linalg_inv_ex", 6, ((3, 3),))
    ]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)])
def test_activation_bytes_are_those_of_the_outputs(dtype: torch.dtype, size: int, device: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.GroupNorm(1, 5)).to(device, dtype)
    _, count = run_and_count(net, torch.zeros(2, 3, 4, 4, dtype=dtype, device=device))
    # The convolution and the norm, not the activation; of the norm only the maps, not its statistics.
    assert count.activation_bytes == 2 * (2 * 5 * 16) * size


def test_attention_writes_its_output_once() -> None:
    attend: Callable[..., Tensor] = nn.functional.scaled_dot_product_attention

    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return attend(x, x, x)

    _, count = run_and_count(Attends(), torch.zeros(2, 7, 4))
    assert count.activation_bytes == 2 * 7 * 4 * 4


@pytest.mark.parametrize(
    ("component", "operator", "left_out"),
    [
        ("encoder.deformable_attention", "deform_sampling", True),
        # Written with grid_sample, the sampling of deformable attention is the same work.
        ("encoder.deformable_attention.sampling", "grid_sampler", True),
        ("encoder.merging", "grid_sampler", False),
        ("encoder.deformable_attention.sampling", "linear", False),
    ],
)
def test_the_published_convention_passes_over_deformable_sampling_alone(
    component: str, operator: str, left_out: bool
) -> None:
    (sampling,) = (each for each in OMISSIONS if each.name == "deformable_sampling")
    assert sampling.applies(component, operator) == left_out

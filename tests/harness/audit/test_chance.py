"""Figures that are moved at random: how far, by which rule they are judged, and how many pass."""

import random
from dataclasses import replace

import pytest

from segmeter.harness.audit import cells, chance
from segmeter.harness.audit.cells import AuditedCell, print_ranges
from segmeter.harness.audit.chance import RULES, accepted_share, moved, rule_of, wrong_figures_met
from segmeter.harness.audit.means import FIRST_IMAGES, mean_total
from segmeter.harness.audit.subjects import subject_of
from segmeter.harness.counting import cost_model
from segmeter.harness.inputs import dataset_sizes
from segmeter.harness.published import PublishedCell, gflops_cells

CELLS = {
    (c.model, c.backbone, c.dataset, c.what, c.value): c
    for c in gflops_cells([1, 2])
    if c.model in ("m2f", "rt-m2f", "pro-scale")
}
WHOLE = CELLS["m2f", "swin-t", "coco", "encoder", 117.0]
DECIMALS = CELLS["rt-m2f", "swin-t", "coco", "encoder", 59.66]
MEAN = CELLS["m2f", "r50", "coco", "total", 229.1]
OTHER_MEAN = CELLS["rt-m2f", "swin-t", "coco", "total", 158.3]
STATED = CELLS["m2f", "r50", "cityscapes", "encoder", 291.0]


@pytest.fixture(autouse=True)
def without_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    # What else costs as much is a remark on a figure that is not met, and counts all models of the tables.
    monkeypatch.setattr(cells, "_family_costs", lambda: ())


def audited(cell: PublishedCell, verdict: str, stated: float | None = None, scope: str = "") -> AuditedCell:
    subject = subject_of(cell)
    subject = replace(subject, scope=scope) if scope else subject
    return AuditedCell(subject, cell.value, "somewhere", None, verdict, "", "", stated)


def test_each_kind_of_figure_has_its_rule() -> None:
    assert [rule_of(c) for c in (STATED, DECIMALS, WHOLE, MEAN)] == list(RULES)
    assert rule_of(replace(MEAN, dataset="cityscapes")) == "stated size"


@pytest.mark.parametrize("cell", [WHOLE, DECIMALS, MEAN])
def test_a_moved_figure_is_half_a_percent_to_a_fifth_off_as_it_would_be_printed(cell: PublishedCell) -> None:
    draws = random.Random(3)
    values = [moved(cell, draws) for _ in range(400)]
    away = [one.value / cell.value - 1 for one in values]
    half = cell.step / 2 / cell.value
    assert all(0.005 - half - 1e-12 <= abs(share) <= 0.2 + half + 1e-12 for share in away)
    assert min(away) < -0.18 and max(away) > 0.18 and min(map(abs, away)) < 0.015
    assert all(abs(one.value / cell.step - round(one.value / cell.step)) < 1e-6 for one in values)
    assert all(float(one.printed) == pytest.approx(one.value, abs=0.005) for one in values)
    assert all(replace(one, value=cell.value, printed=cell.printed) == cell for one in values)
    # Never nothing at all.
    least = replace(cell, value=cell.step / 1000)
    assert moved(least, draws).value == least.step


def test_of_moved_figures_those_that_pass_are_told_by_rule() -> None:
    found = wrong_figures_met([audited(STATED, "stated size")], draws=48)
    assert found["moved_by_percent"] == [0.5, 20.0]
    # 40 of the draws are for means, of which there are none here.
    assert found["draws"] == found["rules"]["stated size"]["draws"] == 8
    assert (found["reproduced"], found["consistent"]) == (0, 0)
    assert [rule["text"] for rule in found["rules"].values()] == list(RULES.values())
    # Another system's figures, and those without a model, are not moved.
    others = [audited(STATED, "stated size", scope="other"), audited(STATED, "not modelled")]
    others[1] = replace(others[1], subject=replace(others[1].subject, spec=None))
    assert wrong_figures_met(others, draws=48)["draws"] == 0
    again = wrong_figures_met([audited(STATED, "stated size")], draws=48)
    assert again == found
    # As the audit does it: 400 in all.
    assert wrong_figures_met([audited(STATED, "stated size")])["draws"] == 400 - 40


def test_a_solved_size_lets_wrong_figures_pass_and_a_stated_one_does_not() -> None:
    found = wrong_figures_met([audited(WHOLE, "solved size"), audited(STATED, "stated size")], draws=100)
    rules = found["rules"]
    # A real size is found for many a whole number of GMACs; none is looked for where the size is stated.
    assert rules["stated size"]["reproduced"] == rules["stated size"]["consistent"] == 0
    assert 0 < rules["solved size, whole"]["consistent"] <= rules["solved size, whole"]["draws"]
    assert found["consistent"] == rules["solved size, whole"]["consistent"]
    assert found["draws"] == sum(rule["draws"] for rule in rules.values()) == 60
    assert min(rules[name]["draws"] for name in ("stated size", "solved size, whole")) > 15


def test_a_mean_is_met_by_the_stated_images_or_by_a_sample_of_two_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = dataset_sizes(FIRST_IMAGES)
    means = [audited(MEAN, "solved mean"), audited(OTHER_MEAN, "solved mean")]
    models = [cost_model(one.subject.spec) for one in means if one.subject.spec]
    stated = [mean_total(model, first) for model in models]
    there = replace(MEAN, value=round(stated[0], 1))
    assert chance._mean_verdict(replace(means[0], stated=stated[0]), there, means) == "stated size"
    # Without a figure of the stated images it is solved for, together with the other's.
    far = replace(MEAN, value=2 * MEAN.value)
    assert chance._mean_verdict(replace(means[0], stated=stated[0]), far, means) == "not reproduced"
    assert chance._mean_verdict(means[0], far, means) == "not reproduced"
    pair = [replace(c, value=round(v, 1)) for c, v in zip((MEAN, OTHER_MEAN), stated, strict=True)]
    solved = [audited(cell, "solved mean") for cell in pair]
    assert chance._mean_verdict(solved[0], pair[0], solved) == "solved mean"
    # What is met as stated leaves no other model to be solved with.
    alone = [solved[0], replace(solved[1], verdict="stated size")]
    assert chance._mean_verdict(solved[0], pair[0], alone) == "not reproduced"
    # All of the draws beyond the means' are of single inputs; means get theirs where there are any.
    monkeypatch.setattr(chance, "MEAN_DRAWS", 3)
    both = wrong_figures_met([*means, audited(STATED, "stated size")], draws=5)
    assert [rule["draws"] for rule in both["rules"].values()] == [2, 0, 0, 3]
    target = chance._target(solved[1], pair[1])
    assert (target.model, target.low, target.high) == (models[1], *print_ranges(pair[1])["rounded"])


def test_the_share_that_passes_is_the_rules_own() -> None:
    rules = {rule: {"draws": 0, "consistent": 0} for rule in RULES}
    rules["solved size, whole"] = {"draws": 12, "consistent": 3}
    assert accepted_share({"rules": rules}, WHOLE) == 0.25
    assert accepted_share({"rules": rules}, DECIMALS) is None

"""How often a wrong figure would pass: figures moved at random, put to the rule that judged the printed ones.

A rule that solves for a size or a mean has something to fit with, so that a figure that it meets is only
consistent with that size. How little that says is measured here: each draw takes a printed figure of the
papers' models, moves it by 0.5 to 20 % either way, and asks the same rule.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segmeter.harness.audit.cells import (
    CONSISTENT,
    REPRODUCED,
    AuditedCell,
    audit_one_size,
    how_printed,
    print_ranges,
)
from segmeter.harness.audit.means import Target, mean_total, solve_samples
from segmeter.harness.counting import cost_model
from segmeter.harness.published import PublishedCell

DRAWS = 400
# Each solves for samples anew.
MEAN_DRAWS = 40
LEAST, MOST = 0.005, 0.20
SEED = 0
RULES = {
    "stated size": "a figure of the one size that Cityscapes has, or of a whole model: nothing is solved for",
    "solved size, two decimals": "a COCO encoder's figure below 100, printed to two decimals",
    "solved size, whole": "a COCO encoder's figure from 100 on, printed without decimals that say anything",
    "solved mean": "a whole model's mean over COCO's images",
}


def rule_of(cell: PublishedCell) -> str:
    """Which rule judges a figure; a key of :data:`RULES`."""
    if cell.dataset != "coco":
        return "stated size"
    if cell.what == "total":
        return "solved mean"
    return "solved size, two decimals" if cell.step < 1 else "solved size, whole"


def moved(cell: PublishedCell, chance: random.Random) -> PublishedCell:
    """The figure as it would be printed if it were 0.5 to 20 % off."""
    factor = 1 + chance.choice((-1, 1)) * chance.uniform(LEAST, MOST)
    value = max(cell.step, round(cell.value * factor / cell.step) * cell.step)
    return replace(cell, value=value, printed=f"{value:.2f}")


def wrong_figures_met(audited: Sequence[AuditedCell], draws: int = DRAWS) -> dict[str, Any]:
    """Put moved figures of the papers' own models to the rules.

    Args:
        audited: the cells as they were judged; all of them, since means are solved for together.
        draws: how many figures are moved, of which :data:`MEAN_DRAWS` at most are means.

    Returns:
        {"draws", "moved_by_percent", "reproduced", "consistent", "rules"}: how many of the moved figures were
        called so, in all and by rule.
    """
    chance = random.Random(SEED)
    own = [a for a in audited if a.subject.spec is not None and a.subject.scope == "family"]
    one_input = [a for a in own if rule_of(a.cell) != "solved mean"]
    means = [a for a in own if rule_of(a.cell) == "solved mean"]
    counts: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    for _ in range(draws - MEAN_DRAWS if one_input else 0):
        one = chance.choice(one_input)
        figure = moved(one.cell, chance)
        counts[rule_of(one.cell)][audit_one_size(replace(one.subject, cell=figure)).verdict] += 1
    for _ in range(MEAN_DRAWS if means else 0):
        one = chance.choice(means)
        counts["solved mean"][_mean_verdict(one, moved(one.cell, chance), means)] += 1
    rules: dict[str, dict[str, Any]] = {
        rule: {
            "text": RULES[rule],
            "draws": sum(found.values()),
            "reproduced": sum(found[verdict] for verdict in REPRODUCED),
            "consistent": sum(found[verdict] for verdict in CONSISTENT),
        }
        for rule, found in counts.items()
    }
    return {
        "draws": sum(found.total() for found in counts.values()),
        "moved_by_percent": [100 * LEAST, 100 * MOST],
        "reproduced": sum(found["reproduced"] for found in rules.values()),
        "consistent": sum(found["consistent"] for found in rules.values()),
        "rules": rules,
    }


def _mean_verdict(one: AuditedCell, figure: PublishedCell, means: Sequence[AuditedCell]) -> str:
    """A moved mean's verdict: samples are solved for anew, with the other models' figures as they are."""
    if one.stated is not None and how_printed(figure, one.stated) == "rounded":
        return "stated size"
    target = _target(one, figure)
    others = [_target(a, a.cell) for a in means if a.verdict != "stated size" and a is not one]
    samples = solve_samples([target, *others])
    met = any(target.low <= mean_total(target.model, sample.sizes) <= target.high for sample in samples)
    return "solved mean" if met else "not reproduced"


def _target(one: AuditedCell, figure: PublishedCell) -> Target:
    assert one.subject.spec is not None
    return Target(cost_model(one.subject.spec), *print_ranges(figure)["rounded"])


def accepted_share(chance: Mapping[str, Any], cell: PublishedCell) -> float | None:
    """Share of wrong figures that the rule of a figure lets pass as consistent; None where none was drawn."""
    found = chance["rules"][rule_of(cell)]
    share: float | None = found["consistent"] / found["draws"] if found["draws"] else None
    return share

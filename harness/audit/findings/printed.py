"""Findings that the printed figures give by themselves: no model is run for them."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations

from segmeter.harness.audit.findings.beside import beside_findings
from segmeter.harness.audit.findings.sentences import (
    Finding,
    backbone,
    dataset,
    finding,
    listed,
    model,
    once,
    place,
    system,
)
from segmeter.harness.audit.percentages import Percentage
from segmeter.harness.audit.speeds import Speed
from segmeter.harness.published import METRIC_NAMES, PRO_SCALE, Claim, PublishedRow

# Two speeds that are the same but for the noise of a measurement.
SAME_SPEED = 0.01
# A text's figure is rounded as it is written; half a unit of its last digit is not held against it.
CLOSE_SPEEDUP = 1.3
# Costs of one model by two sources: rounding and the choice of images stay below this.
CLOSE_COST = 0.02
# Whose cost the paper prints for the panoptic configuration (302.1 is met by it), beside instances' quality.
PANOPTIC_HOSTS = ("maskdino",)


def print_findings(
    rows: Sequence[PublishedRow],
    claims: Sequence[Claim],
    percentages: Sequence[Percentage],
    speeds: Sequence[Speed],
) -> list[Finding]:
    """All findings on what is printed, the weightiest first."""
    own = [row for row in rows if row.paper == PRO_SCALE]
    return [
        *_percentages(percentages),
        *_two_values(own),
        *_claims(own, claims),
        *_fps_of_two_sizes(own),
        *_slower_though_lighter(own),
        *_speedups(own, speeds),
        *_against_the_trend(own),
        *_other_sources(own, [row for row in rows if row.paper != PRO_SCALE]),
        *_other_costs(own, [row for row in rows if row.paper != PRO_SCALE]),
        *beside_findings(own),
    ]


def _identity(row: PublishedRow) -> tuple[str, ...]:
    """What a row measures; PRO-SCALE's default has LPE, so that "+lpe" is no other model."""
    modifier = "" if row.model == "pro-scale" and row.modifier == "+lpe" else row.modifier
    return row.model, row.variant, modifier, row.backbone, row.dataset, row.metric


def _percentages(percentages: Sequence[Percentage]) -> list[Finding]:
    wrong = [p for p in percentages if not p.agrees]
    sentences = [
        f"{place(p.row)}, {model(p.row)}, {p.what}: printed {p.printed:+.2f} %, {p.row.value:.2f} against "
        f"{p.reference.value:.2f} is {p.from_printed:+.2f} %{_after(p.note)}."
        for p in wrong
    ]
    return finding(
        "percentages",
        f"{len(wrong)} of {len(percentages)} printed percentages do not follow from the printed figures",
        sentences,
        (p.row.table for p in wrong),
    )


def _after(note: str) -> str:
    """The part of a note that follows its first clause."""
    return f"; {note.split('; ', 1)[1]}" if "; " in note else ""


def _two_values(rows: Sequence[PublishedRow]) -> list[Finding]:
    by_identity: defaultdict[tuple[str, ...], list[PublishedRow]] = defaultdict(list)
    for row in rows:
        by_identity[_identity(row)].append(row)
    sentences, tables = [], []
    for group in by_identity.values():
        if len({row.value for row in group}) < 2:
            continue
        first = group[0]
        values = listed(once(f"{row.value:g} ({place(row)})" for row in group))
        sentences.append(f"{METRIC_NAMES[first.metric]} of {model(first)} on {dataset(first)}: {values}.")
        for row in group:
            twins = [
                other
                for other in rows
                if (other.metric, other.dataset, other.value) == (row.metric, row.dataset, row.value)
                and other.model == row.model
                and _identity(other) != _identity(row)
            ]
            if twins:
                sentences.append(f"{row.value:g} is what {place(twins[0])} prints for {system(twins[0])}.")
        tables += [row.table for row in group]
    return finding("two-values", "One model is printed with two values", sentences, tables)


def _claims(rows: Sequence[PublishedRow], claims: Sequence[Claim]) -> list[Finding]:
    cells = {(row.table, row.row, row.dataset, row.metric): row for row in rows}
    sentences, tables = [], []
    # A share is of one input, which the printed figures are not: it is counted.
    claims = [claim for claim in claims if claim.kind != "share"]
    for claim in claims:
        figures = [cells[cell] for cell in claim.cells]
        told = claim_outcome(claim, figures)
        if told:
            sentences.append(f"{claim.place[0].upper()}{claim.place[1:]}, {claim.told}: {told}.")
            tables += [row.table for row in figures]
    return finding(
        "claims",
        f"{len(sentences)} of {len(claims)} statements of text and captions are not what the tables print",
        sentences,
        tables,
    )


def claim_outcome(claim: Claim, cells: Sequence[PublishedRow]) -> str:
    """What the tables say instead of a claim; "" where they bear it out.

    Args:
        claim: the statement.
        cells: the printed figures it speaks of, in its order.
    """
    value = cells[0].value
    reference = cells[1].value if len(cells) > 1 else 0.0
    kind = claim.kind
    figure = {
        "value": value,
        "points": value - reference,
        "not_below": value - reference,
        "lowest": value - min((cell.value for cell in cells[1:]), default=value),
    }.get(kind)
    if figure is None:
        share = 100 * value / reference
        figure = {"percent": share - 100, "share": share, "reduction_at_least": 100 - share}[kind]
    digits = len(f"{claim.claimed:g}".partition(".")[2])
    # Half a unit of the claim's last digit, and as much again for the rounding of the figures.
    tolerance = 10**-digits / 2 + (0.006 if digits > 1 else 0)
    if kind in ("not_below", "reduction_at_least"):
        holds = figure >= claim.claimed - (0.011 if kind == "reduction_at_least" else 0)
    elif kind == "lowest":
        holds = figure <= 0
    else:
        holds = abs(figure - claim.claimed) <= tolerance
    if holds:
        return ""
    where = " and ".join(once(place(row) for row in cells))
    if kind == "value":
        return f"{where} prints {value:g}"
    if kind == "lowest":
        lower = [f"{system(c)} has {c.value:g} ({place(c)})" for c in cells[1:] if c.value < value]
        return f"{place(cells[0])} prints {value:g}, {listed(lower)}"
    if kind in ("share", "reduction_at_least"):
        word = "of" if kind == "share" else "less than"
        return f"{value:g} is {figure:.2f} % {word} {reference:g} ({where})"
    unit = {"points": "", "not_below": " points"}.get(kind, " %")
    return f"{value:g} against {reference:g} is {figure:+.2f}{unit} ({where})"


def _fps(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    return [row for row in rows if row.metric == "fps"]


def _gflops(rows: Sequence[PublishedRow], row: PublishedRow, what: str) -> float | None:
    """The printed GFLOPs of a row's model on its data set."""
    wanted = (*_identity(row)[:-1], f"gflops_{what}")
    return next((r.value for r in rows if _identity(r) == wanted), None)


def _fps_of_two_sizes(rows: Sequence[PublishedRow]) -> list[Finding]:
    """One speed for a model on two data sets whose inputs cost very different amounts."""
    sentences, tables = [], []
    fps = _fps(rows)
    for first, second in permutations(fps, 2):
        same_model = _identity(first)[:4] == _identity(second)[:4]
        if not same_model or (first.dataset, second.dataset) != ("cityscapes", "coco"):
            continue
        costs = [_gflops(rows, row, "total") for row in (first, second)]
        if abs(first.value / second.value - 1) <= SAME_SPEED and costs[0] and costs[1]:
            sentences.append(
                f"{model(first)}: {first.value:g} FPS on Cityscapes ({place(first)}) and {second.value:g} on "
                f"COCO ({place(second)}), at {costs[0]:.1f} and {costs[1]:.1f} GFLOPs."
            )
            tables += [first.table, second.table]
    return finding(
        "fps-of-two-sizes", "One speed is printed for inputs of very different cost", sentences, tables
    )


def _slower_though_lighter(rows: Sequence[PublishedRow]) -> list[Finding]:
    """One kind of encoder, fewer GFLOPs, fewer images a second."""
    sentences, tables = [], []
    for light, heavy in permutations(_fps(rows), 2):
        if (light.model, light.backbone, light.dataset) != (heavy.model, heavy.backbone, heavy.dataset):
            continue
        costs = [_gflops(rows, row, "encoder") for row in (light, heavy)]
        if costs[0] and costs[1] and costs[0] < costs[1] and light.value < heavy.value:
            sentences.append(
                f"{model(light)} on {dataset(light)}: {light.value:g} FPS at {costs[0]:.2f} encoder GFLOPs "
                f"({place(light)}), {system(heavy)}: {heavy.value:g} at {costs[1]:.2f} ({place(heavy)})."
            )
            tables += [light.table, heavy.table]
    return finding(
        "slower-though-lighter",
        "The lighter configuration of one encoder is printed as the slower one",
        once(sentences),
        tables,
    )


def _speedups(rows: Sequence[PublishedRow], speeds: Sequence[Speed]) -> list[Finding]:
    """Speed-ups of one encoder over M2F in one table that differ although the savings do not."""
    groups: defaultdict[tuple[int, str, str], list[tuple[Speed, float, float]]] = defaultdict(list)
    for speed in speeds:
        row, reference, ratio = speed.row, speed.reference, speed.published_ratio
        if not reference or not ratio or reference.table != row.table:
            continue
        costs = [_gflops(rows, r, "total") for r in (row, reference)]
        if costs[0] and costs[1]:
            groups[row.table, row.model, row.variant].append((speed, ratio, costs[1] - costs[0]))
    sentences, tables = [], []
    for (table, _, _), group in groups.items():
        ratios = [ratio for _, ratio, _ in group]
        if len(group) > 1 and max(ratios) > CLOSE_SPEEDUP * min(ratios):
            parts = [
                f"{ratio:.2f} times on {backbone(s.row)} for {saved:.1f} GFLOPs less"
                for s, ratio, saved in group
            ]
            sentences.append(f"Table {table}, {system(group[0][0].row)} against M2F: {listed(parts)}.")
            tables.append(table)
    return finding("speed-ups", "Equal savings bring very unequal speed-ups", sentences, tables)


def _against_the_trend(rows: Sequence[PublishedRow]) -> list[Finding]:
    """Three configurations of growing cost: two metrics rise all along, the third ends at its lowest."""
    blocks: defaultdict[tuple[int, str], dict[str, dict[str, PublishedRow]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        stages = row.variant.split(",")
        if row.model == "pro-scale" and len(stages) == 3 and len(set(stages)) == 1 and not row.modifier:
            blocks[row.table, row.block][row.variant][row.metric] = row
    sentences, tables = [], []
    for (table, _), variants in blocks.items():
        steps = [variants[name] for name in sorted(variants)]
        if len(steps) < 3 or not all({"pq", "miou", "ap"} <= step.keys() for step in steps):
            continue
        for metric in ("pq", "miou", "ap"):
            values = [step[metric].value for step in steps]
            others = [
                [step[other].value for step in steps] for other in ("pq", "miou", "ap") if other != metric
            ]
            if values[-1] == min(values) and all(v == sorted(v) for v in others):
                last, shown = steps[-1][metric], listed([f"{v:g}" for v in values])
                sentences.append(
                    f"Table {table}, {model(last)} on {dataset(last)}: {METRIC_NAMES[metric]} "
                    f"{shown} from {sorted(variants)[0]} to {last.variant}, while the other two metrics rise."
                )
                tables.append(table)
    return finding("against-the-trend", "One metric falls where the others rise", sentences, tables)


def _other_sources(own: Sequence[PublishedRow], others: Sequence[PublishedRow]) -> list[Finding]:
    """The paper's baselines beside the figures that their own authors publish."""
    by_identity: defaultdict[tuple[str, ...], list[PublishedRow]] = defaultdict(list)
    for row in others:
        by_identity[_identity(row)].append(row)
    sentences, tables, seen = [], [], set()
    for row in own:
        # Metrics of semantic segmentation bear the same names as those of panoptic models.
        theirs = [
            r for r in by_identity[_identity(row)] if r.paper == row.model and "panoptic" in r.title.lower()
        ]
        if not theirs or (_identity(row), row.value) in seen or row.metric not in ("pq", "miou", "ap"):
            continue
        seen.add((_identity(row), row.value))
        published = theirs[0].value
        between = [
            r
            for r in own
            if r.model == "pro-scale"
            and not r.modifier
            and _identity(r)[3:] == _identity(row)[3:]
            and row.value < r.value < published
        ]
        if between:
            names = once(f"{system(r)} ({r.value:g})" for r in between)
            verb = "lie" if len(names) > 1 else "lies"
            sentences.append(
                f"{METRIC_NAMES[row.metric]} of {model(row)} on {dataset(row)}: {row.value:g} in "
                f"{place(row)}, {published:g} by its authors; {listed(names)} {verb} between the two."
            )
            tables.append(row.table)
    return finding(
        "other-sources",
        "A gain over the paper's own baseline is a loss to its authors' one",
        sentences,
        tables,
    )


def _other_costs(own: Sequence[PublishedRow], others: Sequence[PublishedRow]) -> list[Finding]:
    """Totals that the paper prints for other systems beside what their own authors print."""
    sentences, tables = [], []
    for row in own:
        theirs = [
            r
            for r in others
            if _identity(r) == _identity(row)
            and r.paper == row.model
            and r.metric == "gflops_total"
            and not _of_two_tasks(own, row, r)
        ]
        if theirs and all(abs(row.value / r.value - 1) > CLOSE_COST for r in theirs):
            shown = listed(once(f"{r.value:g}" for r in theirs))
            sentences.append(
                f"{model(row)} on {dataset(row)}: {row.value:.2f} GFLOPs in {place(row)}, {shown} by its "
                "authors."
            )
            tables.append(row.table)
    return finding(
        "other-costs", "A system is printed with another cost than by its authors", sentences, tables
    )


def _of_two_tasks(own: Sequence[PublishedRow], row: PublishedRow, other: PublishedRow) -> bool:
    """Whether a row's figure and another paper's may be of a panoptic and of an instance model.

    A host of PRO-SCALE's encoder is counted as its panoptic configuration, whatever its table shows.
    """
    metrics = {r.metric for r in own if (r.table, r.row) == (row.table, row.row)}
    panoptic = "pq" in metrics or row.model in PANOPTIC_HOSTS
    return panoptic != ("panoptic" in other.title.lower()) and "instance" in other.title.lower()

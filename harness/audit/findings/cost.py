"""Findings that come from measuring the printed GFLOPs again."""

from collections import defaultdict
from collections.abc import Sequence

from segmeter.harness.audit.cells import CONSISTENT, PRINTS, REPRODUCED, AuditedCell
from segmeter.harness.audit.findings.sentences import (
    Finding,
    dataset,
    finding,
    listed,
    model,
    once,
    place,
    system,
)
from segmeter.harness.audit.percentages import Percentage
from segmeter.harness.counting import cost_model
from segmeter.harness.inputs import Size, format_size
from segmeter.harness.published import CITYSCAPES_SIZE, PublishedCell

# Printed figures of one thing may differ by their rounding, which is below this.
ROUNDING = 0.01
# A row's figures: "encoder" and "total" -> cell.
Row = dict[str, PublishedCell]
FEWEST_LIKE = 3
# What is measured as printed, whatever had to be solved for.
MET = (*REPRODUCED, *CONSISTENT)


def cost_findings(audited: Sequence[AuditedCell], percentages: Sequence[Percentage]) -> list[Finding]:
    """All findings on cost, the weightiest first."""
    return [
        *_two_inputs(audited),
        *_across_inputs(percentages),
        *_one_encoder_two_figures(audited),
        *_saving_above_total(audited),
        *_other_images(audited),
        *_not_reproduced(audited),
        *_price_list(audited),
        *_order_flips(audited),
        *_rest_of_the_model(audited),
        *_how_printed(audited),
    ]


def _encoders(audited: Sequence[AuditedCell], data: str) -> list[AuditedCell]:
    return [a for a in audited if a.cell.what == "encoder" and a.cell.dataset == data]


def _two_inputs(audited: Sequence[AuditedCell]) -> list[Finding]:
    by_size: defaultdict[Size, list[PublishedCell]] = defaultdict(list)
    for a in _encoders(audited, "coco"):
        if a.verdict == "solved size" and a.padded:
            by_size[a.padded].append(a.cell)
    if len(by_size) < 2:
        return []
    groups = [
        f"{format_size(size)}: {', '.join(once(f'{model(c)} ({c.value:.2f})' for c in cells))}."
        for size, cells in by_size.items()
    ]
    return finding(
        "two-inputs",
        f"The COCO encoder GFLOPs come from {len(by_size)} different inputs",
        [
            f"No COCO encoder figure is that of the stated 800x1333; solved for, they are those of "
            f"{listed([format_size(s) for s in by_size])}.",
            *groups,
        ],
        (c.table for cells in by_size.values() for c in cells),
    )


def _across_inputs(percentages: Sequence[Percentage]) -> list[Finding]:
    wrong = [p for p in percentages if p.crosses_sizes]
    sentences = []
    for p in wrong:
        assert p.one_size is not None
        twin = next(
            (
                q
                for q in percentages
                if q.row.dataset == "cityscapes"
                and q.what == p.what
                and (q.row.model, q.row.variant, q.row.backbone)
                == (p.row.model, p.row.variant, p.row.backbone)
            ),
            None,
        )
        beside = f" (Table {twin.row.table}, one size, prints {twin.printed:+.2f})" if twin else ""
        sentences.append(
            f"{place(p.row)}, {model(p.row)}: printed {p.printed:+.2f} %, on one input "
            f"{p.one_size:+.2f} %{beside}."
        )
    return finding(
        "across-inputs",
        f"{len(wrong)} printed percentages compare figures of two different inputs",
        sentences,
        (p.row.table for p in wrong),
    )


def _one_encoder_two_figures(audited: Sequence[AuditedCell]) -> list[Finding]:
    """The same encoder structure on one data set with two figures: only the input can differ."""
    by_cost: defaultdict[tuple[str, float], list[AuditedCell]] = defaultdict(list)
    for a in audited:
        if a.cell.what == "encoder" and a.subject.spec and a.subject.scope == "family":
            cost = cost_model(a.subject.spec).encoder(CITYSCAPES_SIZE)
            by_cost[a.cell.dataset, cost].append(a)
    sentences, tables = [], []
    for (_, cost), group in by_cost.items():
        reproduced = [a for a in group if a.verdict in MET]
        low, high = (
            (pick(reproduced, key=lambda a: a.cell.value) if reproduced else None) for pick in (min, max)
        )
        if low and high and high.cell.value > low.cell.value * (1 + ROUNDING):
            sentences.append(
                f"{model(low.cell)} and {model(high.cell)} have the same encoder ({cost:.2f} at "
                f"{format_size(CITYSCAPES_SIZE)}), yet on {dataset(low.cell)} {place(low.cell)} prints "
                f"{low.cell.value:.2f} and {place(high.cell)} {high.cell.value:.2f}."
            )
            tables += [low.cell.table, high.cell.table]
    return finding(
        "one-encoder-two-figures", "One encoder is printed with two costs on one data set", sentences, tables
    )


def row_pairs(
    audited: Sequence[AuditedCell],
) -> list[tuple[dict[str, PublishedCell], dict[str, PublishedCell]]]:
    """Each cheaper row with the dearer one above or below it that it is held to, by what is printed.

    Both are {"encoder": cell, "total": cell}; a row of a reduced encoder goes with the encoder it reduces.
    """
    rows: defaultdict[tuple[int, int], dict[str, PublishedCell]] = defaultdict(dict)
    for a in audited:
        rows[a.cell.table, a.cell.row][a.cell.what] = a.cell
    whole = {key: row for key, row in rows.items() if len(row) == 2}
    pairs: list[tuple[Row, Row]] = []
    for (table, number), row in whole.items():
        cell = row["encoder"]
        above = [
            other
            for (t, n), other in whole.items()
            if t == table
            and n < number
            and (other["encoder"].backbone, other["encoder"].dataset) == (cell.backbone, cell.dataset)
        ]
        references = [o for o in above if _is_reference(o["encoder"], cell)]
        if references:
            pairs.append((row, references[-1]))
        # Within PRO-SCALE, each configuration with more layers against the first one.
        smaller = [o for o in above if o["encoder"].model == cell.model == "pro-scale"]
        if smaller:
            pairs.append((smaller[0], row))
    return pairs


def _is_reference(reference: PublishedCell, cell: PublishedCell) -> bool:
    if cell.modifier in ("+lpe", "+proscale") and cell.model != "pro-scale":
        return reference.model == cell.model and not reference.modifier
    return reference.model == "m2f" and cell.model != "m2f"


def _saving_above_total(audited: Sequence[AuditedCell]) -> list[Finding]:
    sentences, tables = [], []
    for row, reference in row_pairs(audited):
        saved = {what: reference[what].value - row[what].value for what in ("encoder", "total")}
        if row["encoder"].dataset != "coco" or row["encoder"].model == "rt-m2f":
            # RT-M2F also changes the decoder, whose masks it makes smaller.
            continue
        # Both figures of both rows are rounded.
        slack = sum(cells[what].step for cells in (row, reference) for what in ("encoder", "total")) / 2
        if saved["encoder"] > saved["total"] + slack:
            sentences.append(
                f"{place(row['encoder'])}, {model(row['encoder'])}, against row {reference['encoder'].row}, "
                f"{system(reference['encoder'])}: encoder -{saved['encoder']:.2f}, "
                f"total -{saved['total']:.2f}."
            )
            tables.append(row["encoder"].table)
    if not sentences:
        return []
    return finding(
        "saving-above-total",
        f"In {len(sentences)} pairs of COCO rows the encoder saves more GFLOPs than the whole model",
        [
            "Backbone and decoder are the same in both rows of a pair, so on one input both savings are "
            "equal; the encoder's figure is one image's, the total a mean.",
            *sentences,
        ],
        tables,
    )


def _other_images(audited: Sequence[AuditedCell]) -> list[Finding]:
    totals = [a for a in audited if a.cell.what == "total" and a.cell.dataset == "coco" and a.measured]
    first = [a for a in totals if a.verdict == "stated size"]
    solved: defaultdict[str, list[AuditedCell]] = defaultdict(list)
    for a in totals:
        if a.verdict == "solved mean":
            solved[a.note[a.note.index("met by") :]].append(a)
    if not first or not solved:
        return []
    sentences = [
        f"The first 100 images of val2017 give the totals of "
        f"{listed(once(f'{model(a.cell)} ({a.cell.value:.2f})' for a in first))}."
    ]
    for note, cells in solved.items():
        names = once(f"{model(a.cell)} ({a.cell.value:.2f})" for a in cells)
        sentences.append(f"Other images are needed for {listed(names)}: {note}.")
        if len({a.subject.spec for a in cells}) < FEWEST_LIKE:
            sentences.append("So few figures pin down little: that sample is possible, not shown.")
    return finding(
        "other-images",
        f"The COCO totals are consistent with means over {len(solved) + 1} sets of images",
        sentences,
        (a.cell.table for a in totals),
    )


def _not_reproduced(audited: Sequence[AuditedCell]) -> list[Finding]:
    missed = [a for a in audited if a.verdict == "not reproduced" and a.subject.scope == "family"]
    return finding(
        "not-reproduced",
        f"{len(missed)} figures of modelled systems are not reproduced",
        (
            f"{place(a.cell)}, {model(a.cell)}, {a.cell.what}: printed {a.cell.value:.2f}, measured "
            f"{a.measured:.2f}; {a.note}."
            for a in missed
        ),
        (a.cell.table for a in missed),
    )


def _price_list(audited: Sequence[AuditedCell]) -> list[Finding]:
    """What the stride-4 convolution costs by other printed rows, held to the rows that add or remove it."""
    cells = {
        (c.model, c.variant, c.modifier): c
        for c in (a.cell for a in _encoders(audited, "cityscapes"))
        if c.backbone == "swin-t"
    }
    needed = [
        cells.get(key)
        for key in (
            ("lite-m2f", "", ""),
            ("lite-m2f", "", "+lpe"),
            ("m2f", "", ""),
            ("m2f", "", "-s1"),
            ("pro-scale", "1,1,1", ""),
            ("pro-scale", "1,1,1", "+s1"),
        )
    ]
    lite, lpe, m2f, without, small, with_conv = needed
    if not (lite and lpe and m2f and without and small and with_conv):
        return []
    price = lite.value - lpe.value
    sentences = []
    for cell, sum_, text in (
        (without, m2f.value - price, f"{m2f.value:.2f} - {price:.2f}"),
        (with_conv, small.value + price, f"{small.value:.2f} + {price:.2f}"),
    ):
        if abs(cell.value - sum_) > ROUNDING * sum_:
            sentences.append(f"{place(cell)}, {model(cell)}: {text} = {sum_:.2f}, printed {cell.value:.2f}.")
    if abs(without.value - small.value - price) < 1:
        sentences.append(f"{without.value:.2f} looks like the figure of {place(with_conv)}, a row off.")
    if sentences:
        sentences.insert(
            0, f"Table {lite.table} prices the 3x3 convolution on s_1 at {price:.2f} by its printed figures."
        )
    return finding(
        "price-list", "Table 3's cases do not add up with the other tables", sentences, (3, lite.table)
    )


def _order_flips(audited: Sequence[AuditedCell]) -> list[Finding]:
    figures: defaultdict[tuple[str, str, str, str], dict[str, AuditedCell]] = defaultdict(dict)
    for a in audited:
        if a.cell.what == "encoder" and a.subject.scope == "family" and a.cell.table < 8:
            c = a.cell
            figures[c.model, c.variant, c.modifier, c.backbone].setdefault(c.dataset, a)
    both = [f for f in figures.values() if len(f) == 2 and all(a.verdict in MET for a in f.values())]
    sentences, tables = [], []
    for one in both:
        for other in both:
            coco, city = one["coco"].cell, one["cityscapes"].cell
            coco_2, city_2 = other["coco"].cell, other["cityscapes"].cell
            if coco.backbone != coco_2.backbone or coco.value <= coco_2.value or city.value >= city_2.value:
                continue
            spec, padded = other["coco"].subject.spec, one["coco"].padded
            assert spec and padded
            sentences.append(
                f"{model(coco)} against {system(coco_2)}: {coco.value:.2f} > {coco_2.value:.2f} on COCO, "
                f"{city.value:.2f} < {city_2.value:.2f} on Cityscapes; at {format_size(padded)} the second "
                f"would cost {cost_model(spec).encoder(padded):.2f}."
            )
            tables += [coco.table, coco_2.table, city.table, city_2.table]
    return finding(
        "order-flips",
        "An encoder is the cheaper one on COCO and the dearer one on Cityscapes",
        sentences,
        tables,
    )


def _rest_of_the_model(audited: Sequence[AuditedCell]) -> list[Finding]:
    """Total less encoder on one size: the same for one backbone, unless the decoder differs."""
    rests: defaultdict[str, list[tuple[float, PublishedCell]]] = defaultdict(list)
    by_row = {(a.cell.table, a.cell.row, a.cell.what): a for a in audited if a.subject.scope == "family"}
    for (table, row, what), a in by_row.items():
        total = by_row.get((table, row, "total"))
        if what == "encoder" and a.cell.dataset == "cityscapes" and total:
            rests[a.cell.backbone].append((total.cell.value - a.cell.value, a.cell))
    sentences, tables = [], []
    for group in rests.values():
        if len(group) < FEWEST_LIKE:
            continue
        middle = sorted(rest for rest, _ in group)[len(group) // 2]
        usual = [rest for rest, _ in group if abs(rest - middle) <= ROUNDING * middle]
        for rest, cell in group:
            if abs(rest - middle) > ROUNDING * middle:
                sentences.append(
                    f"{place(cell)}, {model(cell)}: total less encoder is {rest:.1f}, {min(usual):.1f} to "
                    f"{max(usual):.1f} in the {len(usual)} other rows of this backbone"
                    f"{_measured_rest(by_row, cell)}."
                )
                tables.append(cell.table)
    return finding(
        "rest-of-the-model", "One encoder changes the cost of the rest of the model", sentences, tables
    )


def _measured_rest(by_row: dict[tuple[int, int, str], AuditedCell], cell: PublishedCell) -> str:
    encoder, total = (by_row[cell.table, cell.row, what].measured for what in ("encoder", "total"))
    if encoder is None or total is None:
        return ""
    return (
        f"; measured {total - encoder:.1f}: this encoder's output makes the decoder cheaper as well, so its "
        "total is not comparable part by part"
    )


def _how_printed(audited: Sequence[AuditedCell]) -> list[Finding]:
    encoder = once(f"{a.cell.value:.4f}" for a in audited if a.cell.what == "encoder")
    large = [float(v) for v in encoder if float(v) >= 100]
    small = [float(v) for v in encoder if float(v) < 100]
    whole = [v for v in large if v == round(v)]
    sentences = []
    if large and len(whole) == len(large):
        sentences.append(
            f"All {len(large)} different encoder figures from 100 GFLOPs on are whole numbers, the "
            f"{len(small)} below have two decimals: the counting tool prints three decimals, in G up to "
            "100 G and in T above."
        )
    for how in ("rounded twice", "cut off"):
        cells = [a for a in audited if a.print == how]
        if cells:
            names = once(f"{model(a.cell)} ({a.cell.printed} for {a.measured:.4f})" for a in cells)
            sentences.append(f"{how.capitalize()} ({PRINTS[how]}): {listed(names)}.")
    return finding("how-printed", "How the figures were rounded", sentences, (a.cell.table for a in audited))

"""The report's first screen: which encoder, at what cost, for what quality, and is it really faster."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.records import FlopsRecord, part_figure
from segmeter.reports.html.parts import Html, inline_svg, join, tag
from segmeter.reports.plots.common import DATASET_TITLES
from segmeter.reports.plots.realised import spread
from segmeter.reports.plots.tradeoff import one_setting
from segmeter.reports.units import change, giga

# The chart against cost and its twin against time, as :mod:`reports.plots.named` calls them.
COST_CHART, TIME_CHART = "pareto-gflops-coco", "pareto-latency-coco"
DATASET = "coco"


def answer(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> Html:
    """The two charts side by side, and a sentence for each encoder."""
    charts = [
        tag(
            "figure",
            tag("div", inline_svg(drawings[name][0], f"answer-{name}", drawings[name][1]), class_="sheet"),
            tag("figcaption", title),
        )
        for name, title in ((COST_CHART, "What it costs"), (TIME_CHART, "What a clock says"))
        if name in drawings
    ]
    if TIME_CHART not in drawings:
        charts.append(
            tag("p", "No timing records: ", tag("code", "segmeter profile m2f pro-scale"), " makes some.")
        )
    first = next(iter(report["records"].values()))
    sentences = [tag("li", *sentence(record, first[0], report)) for record in first]
    return join(
        [
            tag("ul", *sentences, class_="answers"),
            tag("div", *charts, class_="twins"),
            tag("p", conditions(report), class_="note"),
        ]
    )


def sentence(record: FlopsRecord, reference: FlopsRecord, report: Mapping[str, Any]) -> list[str]:
    """An encoder's cost, quality and time in absolute figures, and beside the reference's.

    All of one data set and backbone; a figure that nobody has measured or printed is said to be unknown.
    """
    here, there = _point(record, report), _point(reference, report)
    if here is None:
        cost = f"{giga(record['total_gmacs'])} GMACs at {record['size']}"
        cost += f", {giga(part_figure(record, 'encoder'))} of them the encoder's; quality unknown"
        return [tag("strong", record["encoder_title"]), f": {cost}."]
    against = ""
    if there is not None and there is not here:
        against = f"{change(here['gflops_total'], there['gflops_total'])}; "
    told = [
        f"{here['gflops_total']:.1f} GMACs ({against}encoder {here['gflops_encoder']:.1f})",
        f"PQ {here['pq']:.2f}",
    ]
    timed = _timed(record, report)
    if timed is not None:
        told.append(f"{timed['latency_ms']:.0f} ms a pass")
    return [tag("strong", record["encoder_title"]), f": {', '.join(told)}{_time(record, report)}."]


def conditions(report: Mapping[str, Any]) -> str:
    """What the sentences' figures were taken under."""
    first = next(iter(report["records"].values()))
    cost, timed = _point(first[0], report), _timed(first[0], report)
    lines = []
    if cost is not None:
        lines.append(
            f"GMACs of the whole model, {cost['convention']!r} convention, at "
            f"{DATASET_TITLES[DATASET]}'s input {cost['total_basis']}; changes against {cost['label']}."
        )
        lines.append(f"PQ as printed on {DATASET_TITLES[DATASET]}.")
    if timed is not None:
        lines.append(f"Times: {timed['speed_basis']}.")
    return " ".join(lines)


def _timed(record: FlopsRecord, report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model's point in the chart against time, whose points are all of one machine and setting."""
    points = [p for p in report["figures"]["points"] if None not in (p["latency_ms"], p["pq"])]
    points = [p for p in points if (p["dataset"], p["backbone"]) == (DATASET, record["backbone"])]
    if not points:
        return None
    wanted = (record["encoder"], record["encoder_title"])
    own = [p for p in one_setting(points) if (p["encoder"], p["label"]) == wanted]
    return own[0] if len(own) == 1 else None


def _point(record: FlopsRecord, report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The counted point of a model at the data set's common size, with its printed quality."""
    wanted = {"encoder": record["encoder"], "label": record["encoder_title"], "backbone": record["backbone"]}
    wanted |= {"dataset": DATASET, "source": "measured"}
    return next(
        (
            p
            for p in report["figures"]["points"]
            if all(p[key] == value for key, value in wanted.items())
            and None not in (p["pq"], p["gflops_total"], p["gflops_encoder"])
        ),
        None,
    )


def _time(record: FlopsRecord, report: Mapping[str, Any]) -> str:
    """How much less time it took than the baseline, over all records: least to most."""
    pairs: Sequence[Mapping[str, Any]] = [
        pair for pair in report["figures"].get("realised", []) if pair.get("title") == record["title"]
    ]
    bounds = spread(pairs)
    if bounds is None:
        return ""
    settings = len({pair["machine"] for pair in pairs})
    where = f"in the {settings} settings timed" if settings > 1 else "in the one setting timed"
    baseline = str(pairs[0]["baseline"])
    return (
        f"; {time_range(bounds[0], bounds[2])} time than {baseline.rpartition(', ')[0] or baseline} {where}"
    )


def time_range(low: float, high: float) -> str:
    """Shares of time saved, from the least to the most, in words.

    >>> time_range(0.03, 0.12), time_range(-0.4, 0.12), time_range(-0.4, -0.08)
    ('3 to 12 % less', 'from 40 % more to 12 % less', '8 to 40 % more')
    """
    least, most = round(100 * low), round(100 * high)
    if least < 0 < most:
        return f"from {-least} % more to {most} % less"
    if most <= 0 and least < 0:
        least, most, word = -most, -least, "more"
    else:
        word = "less"
    return f"{least} to {most} % {word}" if least != most else f"{most} % {word}"

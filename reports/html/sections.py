"""The sections of the HTML report, each from its part of the report record."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.records import PARTS, FlopsRecord, part_figure, to_json
from segmeter.reports.html.parts import Cell, Html, Number, join, table, tag
from segmeter.reports.plots.common import DATASET_TITLES, backbone_title
from segmeter.reports.units import PART_TITLES, change, covered, giga, millions, percent, title

# What a point of the trade-off chart holds; see docs/report.md.
FIGURE_TITLES = {
    "gflops_encoder": "encoder GFLOPs",
    "gflops_total": "total GFLOPs",
    "fps": "FPS",
    "latency_ms": "latency ms",
    "pq": "PQ",
    "miou": "mIoU",
    "ap": "AP",
}
POINT_TEXTS = (
    *("label", "encoder", "backbone", "dataset", "source", "convention"),
    *("encoder_basis", "total_basis", "speed_basis"),
)
POINT_ORIGIN = ("reference", "command", "note")
ENCODER_COLOURS = {"m2f": "c-m2f", "lite-m2f": "c-lite", "rt-m2f": "c-rt", "pro-scale": "c-pro"}
# What changes most of what a reader would take from the tables: figures of two inputs stand side by side.
HEADLINES = ("two-inputs", "across-inputs", "saving-above-total")
SOURCES = {"published": "published", "measured": "measured", "own": "your own"}


def summary(report: Mapping[str, Any]) -> Html:
    """What was measured, in figures and in the three findings that matter most."""
    records: Mapping[str, Sequence[FlopsRecord]] = report["records"]
    dataset, group = next(iter(records.items()))
    reference = part_figure(group[0], "encoder")
    tiles = [
        tag(
            "li",
            tag("strong", change(part_figure(record, "encoder"), reference)),
            tag(
                "span", f"{record['encoder_title']} encoder against {group[0]['encoder_title']}'s, {dataset}"
            ),
        )
        for record in group[1:]
    ]
    counts = report["audit"]["counts"]
    told = f"of {counts['family_cells']} printed GFLOPs of its own models reproduced at the stated size"
    tiles.append(tag("li", tag("strong", str(counts["family_reproduced"])), tag("span", told)))
    told = "findings about what the papers print"
    tiles.append(tag("li", tag("strong", str(len(report["audit"]["findings"]))), tag("span", told)))
    findings = report["audit"]["findings"]
    return join(
        [
            tag("p", measured_text(report)),
            tag("ul", *tiles, class_="tiles"),
            tag("h3", "What matters most"),
            tag("ol", *(finding(one) for one in headlines(findings)), class_="findings"),
        ]
    )


def measured_text(report: Mapping[str, Any]) -> str:
    """What was measured, in a sentence or two."""
    records: Mapping[str, Sequence[FlopsRecord]] = report["records"]
    first = next(iter(records.values()))
    names = ", ".join(record["encoder_title"] for record in first)
    photos = len(report["photos"])
    return (
        f"{len(first)} models ({names}) with the backbone {first[0]['backbone']}, counted at "
        f"{', '.join(n for n in records if n not in photo_names(report))} and on "
        f"{photos} photo{'s' if photos != 1 else ''}; each also ran once for real. Every figure is in "
        f"{first[0]['unit']} in the {first[0]['convention']!r} convention ({first[0]['convention_text']}), "
        "batch 1. One multiply-accumulate counts as 1, the unit that the papers print as GFLOPs."
    )


def photo_names(report: Mapping[str, Any]) -> set[str]:
    """The groups of records that are photos."""
    return {photo["name"] for photo in report["photos"]}


def headlines(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The three findings that matter most: of :data:`HEADLINES`, then the first others."""
    wanted = [one for name in HEADLINES for one in findings if one["id"] == name]
    return [*wanted, *(one for one in findings if one not in wanted)][:3]


def finding(one: Mapping[str, Any]) -> Html:
    """One finding as a list item: its first sentence, and the evidence to unfold."""
    first, *others = one["sentences"] or [one["text"]]
    parts = [tag("strong", one["title"]), tag("span", first)]
    if others:
        evidence = tag("ul", *(tag("li", sentence) for sentence in others))
        parts.append(tag("details", tag("summary", f"{len(others)} more on it"), evidence))
    return tag("li", *parts)


def chart_points(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points as the chart's script reads them: every field there, and a colour class."""
    found = []
    for point in points:
        one: dict[str, Any] = {name: str(point.get(name) or "") for name in (*POINT_TEXTS, *POINT_ORIGIN)}
        one |= {name: point.get(name) for name in FIGURE_TITLES}
        one["spread"] = point.get("spread")
        one["dataset"] = DATASET_TITLES.get(one["dataset"], one["dataset"]) if one["dataset"] else ""
        one["backbone"] = backbone_title(one["backbone"]) if one["backbone"] else ""
        own = point.get("source") == "own"
        one["colour"] = "c-own" if own else ENCODER_COLOURS.get(one["encoder"], "c-other")
        found.append(one)
    return found


def points_table(points: Sequence[Mapping[str, Any]]) -> Html:
    """The chart's points as a table, for those who cannot or do not want to use the chart."""
    header = [
        *("point", "backbone", "data set", "from"),
        *FIGURE_TITLES.values(),
        *("counted as", "source", "on the front"),
    ]
    rows: list[list[Cell]] = []
    for point in points:
        numbers = [_figure(point[name]) for name in FIGURE_TITLES]
        rows.append(
            [
                point["label"],
                point["backbone"],
                point["dataset"],
                SOURCES.get(point["source"], point["source"]),
                *numbers,
                point["convention"],
                point["reference"] or point["command"],
                "",
            ]
        )
    keys = [str(index) for index in range(len(points))]
    return table(
        "The points of the chart; its filters apply here too", header, rows, name="points", keys=keys
    )


def measured_costs(report: Mapping[str, Any]) -> Html:
    """One table for each size, each row linked to its record."""
    parts: list[Html] = []
    header = ["model", *(PART_TITLES[p] for p in PARTS), "total", "encoder change", "parameters"]
    for name, group in report["records"].items():
        rows: list[list[Cell]] = []
        for record in group:
            link = tag("a", record["encoder_title"], href=f"#{record_id(report, name, record)}")
            against = part_figure(record, "encoder") / part_figure(group[0], "encoder") - 1
            rows.append(
                [
                    link,
                    *(Number(giga(part_figure(record, p)), part_figure(record, p)) for p in PARTS),
                    Number(giga(record["total_gmacs"]), record["total_gmacs"]),
                    Number(
                        change(part_figure(record, "encoder"), part_figure(group[0], "encoder")),
                        against,
                    ),
                    Number(millions(record["params"]), record["params"]),
                ]
            )
        caption = f"{name}: {size_text(group[0])} In {group[0]['unit']}."
        parts += [tag("h3", name), table(caption, header, rows)]
    return join(parts)


def size_text(record: FlopsRecord) -> str:
    """Input size, classes and queries in a sentence."""
    line = f"input {record['size']}"
    if record["original_size"]:
        height, width = record["original_size"]
        line += f", results resized to {height}x{width}"
    return f"{line}; {record['num_classes']} classes, {record['num_queries']} queries."


def audit(content: Mapping[str, Any]) -> Html:
    """Every published GFLOPs cell beside its measurement, with filters; percentages, speeds, all findings."""
    tiles = [
        tag("li", tag("strong", str(number)), tag("span", tag("b", name), f": {content['verdicts'][name]}"))
        for name, number in content["counts"]["verdicts"].items()
    ]
    return join(
        [
            tag("ul", *tiles, class_="tiles"),
            _cells(content),
            tag("h3", "Printed percentages"),
            _percentages(content["percentages"]),
            tag("h3", "Printed speeds"),
            _speeds(content["fps"]),
            tag("h3", "Every finding"),
            tag("ol", *(finding(one) for one in content["findings"]), class_="all"),
        ]
    )


def _cells(audit: Mapping[str, Any]) -> Html:
    header = ["cell", "table", "model", "backbone", "data set", "figure", "printed", "measured", "off",
              "verdict", "measured at", "print", "note"]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            f"{cell['table']}.{cell['row']}",
            str(cell["table"]),
            cell["model"],
            cell["backbone"],
            cell["dataset"],
            cell["what"],
            Number(cell["printed"], cell["published_gmacs"]),
            _figure(cell["measured_gmacs"]),
            _percent(cell["difference_percent"]),
            verdict(cell["verdict"], audit["reproduced"]),
            cell["size"],
            cell["print"] or "-",
            cell["note"],
        ]
        for cell in audit["cells"]
    ]
    filters = ("verdict", "table", "backbone", "data set", "figure", "print")
    caption = "Printed GFLOPs, measured again; GMACs. Cell 1.2 is table 1, row 2."
    return table(caption, header, rows, name="audit-cells", filters=filters)


def _percentages(found: Sequence[Mapping[str, Any]]) -> Html:
    header = ["cell", "model", "backbone", "data set", "figure", "printed", "from the figures",
              "on one input", "holds", "note"]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            f"{one['table']}.{one['row']}",
            one["model"],
            one["backbone"],
            one["dataset"],
            one["what"],
            _percent(one["printed"]),
            _percent(one["from_printed"]),
            _percent(one["one_size"]),
            "miscalculated" if not one["agrees"] else "crosses inputs" if one["crosses_sizes"] else "yes",
            one["note"],
        ]
        for one in found
    ]
    caption = "Printed changes: from the printed figures, and from measurements on one input"
    return table(caption, header, rows, name="audit-percentages", filters=("holds",))


def _speeds(found: Sequence[Mapping[str, Any]]) -> Html:
    header = ["cell", "model", "backbone", "data set", "images a second", "printed, times M2F",
              "measured, times M2F", "note"]  # fmt: skip
    rows: list[list[Cell]] = []
    for one in found:
        measured = Number("-", None)
        if one["measured_ratio"] is not None:
            low, high = one["interval"]
            text = f"{one['measured_ratio']:.2f} ({low:.2f} to {high:.2f})"
            measured = Number(text, one["measured_ratio"])
        rows.append(
            [
                f"{one['table']}.{one['row']}",
                one["model"],
                one["backbone"],
                one["dataset"],
                Number(f"{one['published_fps']:.2f}", one["published_fps"]),
                _figure(one["published_ratio"]),
                measured,
                "; ".join(part for part in (one["where"], one["note"]) if part),
            ]
        )
    return table("Printed images a second, and their ratio to M2F's", header, rows, name="audit-speeds")


def verdict(text: str, reproduced: Sequence[str]) -> Html:
    """A verdict with its colour; the words say it all."""
    kind = "good" if text in reproduced else "bad" if text.startswith("not reproduced") else ""
    return tag("span", text, class_=f"verdict {kind}".strip())


def drawing_width(svg: str) -> float:
    """Width of a drawing by matplotlib in points."""
    found = re.search(r'<svg\b[^>]*?\bwidth="([\d.]+)pt"', svg)
    return float(found.group(1)) if found else 0.0


def figure_data_details(data: Mapping[str, Any]) -> Html:
    """The records that the figures are drawn from, in full; the points have a table of their own."""
    parts = []
    for name, content in data.items():
        if name != "points" and isinstance(content, list | dict):
            pre = tag("pre", to_json(content), tabindex="0", aria_label=f"data of {name}")
            body = tag("div", pre, id=f"data-{name}")
            parts.append(tag("details", tag("summary", f"Data of the figure: {name}"), body, class_="record"))
    return join(parts)


def not_counted(group: Sequence[FlopsRecord]) -> Html:
    """What the convention leaves out, by model."""
    reasons: dict[str, str] = {}
    for record in group:
        reasons |= {name: record["not_counted_reasons"][name] for name in record["not_counted"]}
    rows: list[list[Cell]] = []
    for name, reason in reasons.items():
        cells: list[Cell] = []
        for record in group:
            amount = record["not_counted"].get(name, 0.0)
            cells.append(Number("unknown", None) if amount is None else Number(giga(amount), amount))
        rows.append([f"{title(name)} ({reason})", *cells])
    rows.append(
        [
            "counted share of all work, in FLOPs",
            *(
                Number(covered(share), None if share is None else 100 * share)
                for share in (record["coverage"] for record in group)
            ),
        ]
    )
    caption = f"Left out of the {group[0]['convention']!r} figures, {group[0]['unit']}: {size_text(group[0])}"
    return table(caption, ["not counted", *(record["encoder_title"] for record in group)], rows)


def forward_passes(passes: Sequence[Mapping[str, Any]]) -> Html:
    """One real forward pass of each model: proof that it runs."""
    first = passes[0]
    height, width = first["input_size"]
    note = (
        f"One pass each on {first['photo']} at {height}x{width}, weights {first['weights']}, "
        f"{first['dtype']} on {first['device']} with {first['threads']} thread(s), unwarmed: proof that the "
        "models run, not a benchmark."
    )
    names = list(first["outputs"])
    rows: list[list[Cell]] = [
        [
            one["title"],
            Number(f"{one['seconds']:.2f}", one["seconds"]),
            *("x".join(str(n) for n in one["outputs"][name]) for name in names),
        ]
        for one in passes
    ]
    header = ["model", "seconds", *(name.replace("_", " ") for name in names)]
    return table(note, header, rows)


def record_details(report: Mapping[str, Any]) -> Html:
    """Every record in full, with the command that makes it again; tables and figures link here."""
    parts = []
    for name, group in report["records"].items():
        for record in group:
            heading = tag(
                "summary", f"{record['title']} at {name}: {giga(record['total_gmacs'])} {record['unit']}"
            )
            ident = record_id(report, name, record)
            body = tag(
                "div",
                tag("p", "Made again by ", tag("code", record_command(name, record)), "."),
                tag("pre", to_json(record), tabindex="0", aria_label=f"record {record['title']}, {name}"),
                id=ident,
            )
            parts.append(tag("details", heading, body, class_="record"))
    return join(parts)


def record_id(report: Mapping[str, Any], name: str, record: FlopsRecord) -> str:
    """The place of a record in the page."""
    return f"record-{list(report['records']).index(name)}-{record['encoder']}"


def record_command(name: str, record: FlopsRecord) -> str:
    """The command line that counts one record again."""
    where = f"--dataset {name}"
    if "dataset" not in record and record["padded_size"]:
        where = f"--padded-size {'x'.join(str(n) for n in record['padded_size'])}"
        if record["original_size"]:
            where += f" --original-size {'x'.join(str(n) for n in record['original_size'])}"
    return f"segmeter flops {record['model']} {where} --num-classes {record['num_classes']} --json"


def environment(report: Mapping[str, Any]) -> Html:
    """Versions and machine."""
    rows: list[list[Cell]] = [[name, str(value)] for name, value in report["versions"].items()]
    return table("Versions", ["package", "version"], rows)


def _figure(value: float | None) -> Number:
    return Number("-", None) if value is None else Number(giga(value), value)


def _percent(value: float | None) -> Number:
    return Number("-", None) if value is None else Number(percent(value, signed=True), value)

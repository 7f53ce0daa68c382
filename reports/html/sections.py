"""The sections of the HTML report, each from its part of the report record."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.records import PARTS, FlopsRecord, part_figure
from segmeter.reports.html.parts import Cell, Html, Number, figure_cell, join, table, tag
from segmeter.reports.plots.common import DATASET_TITLES, backbone_title
from segmeter.reports.plots.style import look_of
from segmeter.reports.units import PART_TITLES, change, covered, giga, millions, title

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
SOURCES = {"published": "published", "measured": "measured", "own": "your own"}


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


def chart_points(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points as the chart's script reads them: every field there, and a colour class."""
    found = []
    for point in points:
        one: dict[str, Any] = {name: str(point.get(name) or "") for name in (*POINT_TEXTS, *POINT_ORIGIN)}
        one |= {name: point.get(name) for name in FIGURE_TITLES}
        one["spread"] = point.get("spread")
        one["dataset"] = DATASET_TITLES.get(one["dataset"], one["dataset"]) if one["dataset"] else ""
        one["backbone"] = backbone_title(one["backbone"]) if one["backbone"] else ""
        look = look_of(one["encoder"], point.get("source") == "own")
        one["shape"] = look.marker
        one["colour"] = f"c-{look.light[1:].lower()}"
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
        numbers = [figure_cell(point[name]) for name in FIGURE_TITLES]
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
    title = "The points of the chart; its filters apply here too"
    # Of several hundred rows; as blocks of lines they would be no table any more.
    return table(title, header, rows, name="points", keys=keys, stacked=False)


def measured_costs(report: Mapping[str, Any]) -> Html:
    """One table for each size, each row linked to its record."""
    parts: list[Html] = []
    header = ["model", *(PART_TITLES[p] for p in PARTS), "total", "encoder change", "parameters"]
    for names, group in _alike(report["records"]):
        name = names[0]
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
        together = " and ".join(names)
        caption = f"{together}: {size_text(group[0])} In {group[0]['unit']}."
        parts += [tag("h3", together), table(caption, header, rows)]
    return join(parts)


def _alike(records: Mapping[str, Sequence[FlopsRecord]]) -> list[tuple[list[str], Sequence[FlopsRecord]]]:
    """Names of inputs with the same figures, such as photos of one size, and their records."""
    found: list[tuple[list[str], Sequence[FlopsRecord]]] = []
    for name, group in records.items():
        same = [(r["size"], r["original_size"], r["total_gmacs"], r["components"]) for r in group]
        for names, other in found:
            if same == [(r["size"], r["original_size"], r["total_gmacs"], r["components"]) for r in other]:
                names.append(name)
                break
        else:
            found.append(([name], group))
    return found


def size_text(record: FlopsRecord) -> str:
    """Input size, classes and queries in a sentence."""
    line = f"input {record['size']}"
    if record["original_size"]:
        height, width = record["original_size"]
        line += f", results resized to {height}x{width}"
    return f"{line}; {record['num_classes']} classes, {record['num_queries']} queries."


def drawing_width(svg: str) -> float:
    """Width of a drawing by matplotlib in points."""
    found = re.search(r'<svg\b[^>]*?\bwidth="([\d.]+)pt"', svg)
    return float(found.group(1)) if found else 0.0


def figure_data_details(data: Mapping[str, Any]) -> Html:
    """The records that the figures are drawn from, in full; the points have a table of their own."""
    parts = []
    for name, content in data.items():
        # The breakdown is drawn from the records above.
        if name not in ("points", "breakdown") and isinstance(content, list | dict):
            pre = tag("pre", compact(content), tabindex="0", aria_label=f"data of {name}")
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
            *("x".join(str(n) for n in one["outputs"][name]) for name in names),
        ]
        for one in passes
    ]
    header = ["model", *(name.replace("_", " ") for name in names)]
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
                tag("pre", compact(record), tabindex="0", aria_label=f"record {record['title']}, {name}"),
                id=ident,
            )
            parts.append(tag("details", heading, body, class_="record"))
    return join(parts)


def compact(content: Any) -> str:
    """JSON on one line: the page wraps it, and a mail takes half the room."""
    return json.dumps(content, allow_nan=False)


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

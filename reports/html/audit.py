"""The HTML report's audit: what is printed beside what is measured, and what follows."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.records import FlopsRecord, part_figure
from segmeter.reports.html.parts import Cell, Html, Number, figure_cell, join, percent_cell, table, tag
from segmeter.reports.text.audit import records_range
from segmeter.reports.units import change

# What changes most of what a reader would take from the tables: figures of two inputs stand side by side.
HEADLINES = ("two-inputs", "across-inputs", "saving-above-total")


def summary(report: Mapping[str, Any]) -> Html:
    """What the audit found, in figures and in the three findings that matter most."""
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
            tag("ul", *tiles, class_="tiles"),
            tag("h3", "What matters most"),
            tag("ol", *(finding(one) for one in headlines(findings)), class_="findings"),
        ]
    )


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
            figure_cell(cell["measured_gmacs"]),
            percent_cell(cell["difference_percent"]),
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
            percent_cell(one["printed"]),
            percent_cell(one["from_printed"]),
            percent_cell(one["one_size"]),
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
            text = f"{one['measured_ratio']:.2f} ({low:.2f} to {high:.2f}){records_range(one)}"
            measured = Number(text, one["measured_ratio"])
        rows.append(
            [
                f"{one['table']}.{one['row']}",
                one["model"],
                one["backbone"],
                one["dataset"],
                Number(f"{one['published_fps']:.2f}", one["published_fps"]),
                figure_cell(one["published_ratio"]),
                measured,
                "; ".join(part for part in (one["where"], one["note"]) if part),
            ]
        )
    return table("Printed images a second, and their ratio to M2F's", header, rows, name="audit-speeds")


def verdict(text: str, reproduced: Sequence[str]) -> Html:
    """A verdict with its colour; the words say it all."""
    kind = "good" if text in reproduced else "bad" if text.startswith("not reproduced") else ""
    return tag("span", text, class_=f"verdict {kind}".strip())

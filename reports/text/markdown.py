"""The report as markdown, and its tables as CSV."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.harness.records import PARTS, FlopsRecord, part_figure
from segmeter.plain import csv_text, markdown
from segmeter.reports.text.tokens import markdown_section
from segmeter.reports.text.verdicts import chance_line, verdict_line
from segmeter.reports.units import PART_TITLES, change, covered, giga, millions, percent, printed, title


class Markup(str):
    """Markdown as it stands; a table escapes every other cell."""

    __slots__ = ()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A markdown table; the first column is left-aligned, the others right-aligned.

    Cells are text, whatever is in it, unless they are :class:`Markup`.

    Args:
        header: of the columns.
        rows: their cells.
        words: whether the other columns are words, and left-aligned too.

    >>> print(markdown_table(["model", "GMACs"], [["M2F", "281.13"]]))
    | model | GMACs |
    | :-- | --: |
    | M2F | 281.13 |
    """
    align = [":--"] + [":--" if words else "--:"] * (len(header) - 1)
    body = [[cell if isinstance(cell, Markup) else markdown(cell) for cell in row] for row in (header, *rows)]
    lines = [body[0], align, *body[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report_markdown(report: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    """The whole report as one markdown document.

    Args:
        report: the record of :func:`harness.report.run_report`.
        captions: the figures that lie in ``figures/NAME.svg`` beside it, with their captions.
    """
    records: Mapping[str, Sequence[FlopsRecord]] = report["records"]
    first = next(iter(records.values()))[0]
    sections = [
        "# What the four encoders cost",
        _summary(records),
        "![Compute breakdown](breakdown.png)",
        f"Figures are {first['unit']} in the `{first['convention']}` convention: "
        f"{first['convention_text']}. One multiply-accumulate is 1. Batch 1, backbone "
        f"{first['backbone']}.",
    ]
    for name, group in records.items():
        sections += [f"## {name}", _size_line(group[0]), _parts_table(group)]
        if "spread" in group[0]:
            sections.append(_spread_table(group))
    sections += [
        "## Inside the encoder",
        _size_line(first),
        _encoder_table(next(iter(records.values()))),
        "## What the published figures leave out",
        _size_line(first),
        _omissions_table(next(iter(records.values()))),
        "## The published figures, audited",
        _audit_summary(report["audit"]),
        _audit_table(report["audit"]["cells"]),
        "### What does not fit together",
        *(
            f"{n}. **{markdown(one['title'])}.** {markdown(one['text'])}"
            for n, one in enumerate(report["audit"]["findings"], 1)
        ),
        _tokens_section(report),
        "## Figures",
        *(f"![{name}](figures/{name}.svg)\n\n*{markdown(text)}*" for name, text in captions.items()),
        "## One real forward pass each",
        _forward_table(report["forward_passes"]),
        "## Made with",
        ", ".join(f"{package} {number}" for package, number in report["versions"].items()),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(records: Mapping[str, Sequence[FlopsRecord]]) -> str:
    lines = []
    for name, group in records.items():
        reference = part_figure(group[0], "encoder")
        parts = [
            f"{record['encoder_title']} {giga(part_figure(record, 'encoder'))} "
            f"({change(part_figure(record, 'encoder'), reference)})"
            for record in group[1:]
        ]
        lines.append(
            f"- **{name}** ({group[0]['size']}): the {group[0]['encoder_title']} encoder costs "
            f"{giga(reference)} {group[0]['unit']}; " + ", ".join(parts) + "."
        )
    return "\n".join(lines)


def _size_line(record: FlopsRecord) -> str:
    line = f"Input: {record['size']}"
    if record["original_size"]:
        height, width = record["original_size"]
        line += f", results resized to {height}x{width}"
    return f"{line}; {record['num_classes']} classes, {record['num_queries']} queries."


def _parts_table(group: Sequence[FlopsRecord]) -> str:
    header = ["model", *(PART_TITLES[p] for p in PARTS), "total", "encoder change", "parameters"]
    rows = [
        [
            record["encoder_title"],
            *(giga(part_figure(record, part)) for part in PARTS),
            giga(record["total_gmacs"]),
            change(part_figure(record, "encoder"), part_figure(group[0], "encoder")),
            millions(record["params"]),
        ]
        for record in group
    ]
    return markdown_table(header, rows)


def _spread_table(group: Sequence[FlopsRecord]) -> str:
    header = ["over the images", "mean", "std", "min", "max"]
    rows = []
    for record in group:
        for what in ("encoder", "total"):
            s = record["spread"][what]
            figures = (s["mean"], s["std"], s["min"], s["max"])
            rows.append([f"{record['encoder_title']}, {what}", *(giga(f) for f in figures)])
    return markdown_table(header, rows)


def _encoder_table(group: Sequence[FlopsRecord]) -> str:
    names: list[str] = []
    for record in group:
        for name, node in record["components"]["encoder"]["parts"].items():
            names += [name] if name not in names else []
            names += [f"{name}.{part}" for part in node["parts"] if f"{name}.{part}" not in names]
    names.sort(key=lambda name: (name.split(".")[0], "." in name))
    rows = []
    for name in names:
        indent = "&nbsp;&nbsp;" if "." in name else ""
        rows.append(
            [Markup(indent + markdown(title(name))), *(giga(_inside(record, name)) for record in group)]
        )
    return markdown_table(["component", *(record["encoder_title"] for record in group)], rows)


def _inside(record: FlopsRecord, name: str) -> float:
    level = record["components"]["encoder"]["parts"]
    node = None
    for part in name.split("."):
        node = level.get(part)
        if node is None:
            return 0.0
        level = node["parts"]
    return node["gmacs"] if node else 0.0


def _omissions_table(group: Sequence[FlopsRecord]) -> str:
    names: dict[str, str] = {}
    for record in group:
        names |= {name: record["not_counted_reasons"][name] for name in record["not_counted"]}
    rows = []
    for name, reason in names.items():
        figures = []
        for record in group:
            figure = record["not_counted"].get(name, 0.0)
            figures.append("unknown" if figure is None else giga(figure))
        rows.append([f"{title(name)} ({reason})", *figures])
    rows.append(
        [
            "counted share of all work, in FLOPs",
            *(covered(record["coverage"]) for record in group),
        ]
    )
    return markdown_table(["not counted", *(record["encoder_title"] for record in group)], rows)


def _tokens_section(report: Mapping[str, Any]) -> str:
    if report["tokens"] is None:
        return f"## Token redundancy\n\nNot measured: {markdown(report['tokens_missing'])}."
    return markdown_section(report["tokens"]).strip()


def _audit_summary(audit: Mapping[str, Any]) -> str:
    counts = audit["counts"]
    verdicts = "\n".join(
        f"- {number} {name}: {audit['verdicts'][name]}" for name, number in counts["verdicts"].items()
    )
    return (
        f"{counts['cells']} GFLOPs cells of the PRO-SCALE paper; of its own models, {verdict_line(counts)}; "
        f"{chance_line(audit['chance'])}.\n\n{verdicts}"
    )


def _audit_table(cells: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "table.row",
        "model",
        "figure",
        "published",
        "measured",
        "difference",
        "measured at",
        "verdict",
    ]
    body = [
        [
            f"{cell['table']}.{cell['row']}",
            f"{cell['model']}, {cell['backbone']}, {cell['dataset']}",
            cell["what"],
            printed(cell["printed"]),
            "-" if cell["measured_gmacs"] is None else giga(cell["measured_gmacs"]),
            "-" if cell["difference_percent"] is None else percent(cell["difference_percent"], signed=True),
            cell["size"],
            cell["verdict"] + (f": {cell['note']}" if cell["note"] else ""),
        ]
        for cell in cells
    ]
    return markdown_table(header, body)


def _forward_table(passes: Sequence[Mapping[str, Any]]) -> str:
    first = passes[0]
    rows = [
        [
            p["title"],
            *("x".join(str(n) for n in p["outputs"][name]) for name in p["outputs"]),
        ]
        for p in passes
    ]
    height, width = first["input_size"]
    note = (
        f"One pass each on {markdown(first['photo'])} at {height}x{width}, weights {first['weights']}, "
        f"{first['device']}, {first['dtype']}, {first['threads']} threads. A pass shows that the models "
        "run; random weights segment nothing."
    )
    return note + "\n\n" + markdown_table(["model", *first["outputs"]], rows)


def figures_csv(records: Mapping[str, Sequence[FlopsRecord]]) -> str:
    """Tidy CSV: one row for each data set, model and component at any depth."""
    rows = [["input", "size", "model", "backbone", "convention", "unit", "component", "figure"]]
    for name, group in records.items():
        for record in group:
            common = [
                name,
                record["size"],
                record["model"],
                record["backbone"],
                record["convention"],
                record["unit"],
            ]
            rows.append([*common, "total", f"{record['total_gmacs']:.6f}"])
            for path, gmacs in _flatten(record["components"]):
                rows.append([*common, path, f"{gmacs:.6f}"])
    return csv_text(rows)


def _flatten(components: Mapping[str, Any], above: str = "") -> list[tuple[str, float]]:
    rows = []
    for name, node in components.items():
        path = f"{above}.{name}" if above else name
        rows.append((path, node["gmacs"]))
        rows += _flatten(node["parts"], path)
    return rows

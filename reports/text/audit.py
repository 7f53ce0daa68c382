"""An audit record for reading: terminal tables, markdown, CSV, LaTeX."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import csv_text, latex, markdown
from segmeter.reports.text.markdown import markdown_table
from segmeter.reports.text.verdicts import chance_line, verdict_line
from segmeter.reports.units import giga, percent, printed

FORMATS = ("md", "csv", "latex")
CELL_HEADER = (
    "row",
    "model",
    "backbone",
    "data set",
    "figure",
    "printed",
    "measured",
    "off",
    "at",
    "verdict",
)
PERCENT_HEADER = ("table", "row", "model", "figure", "printed", "from the figures", "on one input", "note")
# Terminal and LaTeX show the percentages that do not hold, markdown all of them.
FPS_HEADER = ("table", "row", "model", "data set", "FPS", "printed x M2F", "measured x M2F", "note")
SPEED_HEADER = ("model", "measured x M2F", "where", "record")
CSV_COLUMNS = (
    "table",
    "row",
    "model",
    "backbone",
    "dataset",
    "what",
    "printed",
    "published_gmacs",
    "measured_gmacs",
    "difference_percent",
    "size",
    "measured_as",
    "scope",
    "verdict",
    "print",
    "note",
)
# The part of a cell's note that holds a figure of this cell alone.
OWN_FIGURE = re.compile(r"\d+x\d+ would cost [\d.]+|the first .* give [\d.]+")
# Columns of words; the others hold figures.
WORDS = {"model", "backbone", "data set", "figure", "at", "verdict", "note"}


def audit_tables(record: Mapping[str, Any]) -> list[Table]:
    """The audited tables, the percentages that do not hold, and the speeds."""
    tables = []
    for number, cells in _by_table(record).items():
        rows = [_cell_row(cell) for cell in cells]
        tables.append(_table(f"Table {number}, GMACs (printed as GFLOPs)", CELL_HEADER, rows))
    percentages = _percent_rows(record)
    if percentages:
        title = f"{len(percentages)} of {len(record['percentages'])} printed percentages do not hold"
        tables.append(_table(title, PERCENT_HEADER, percentages))
    if record["fps"]:
        tables.append(_table("Images a second against M2F", FPS_HEADER, fps_rows(record["fps"])))
    return tables


def audit_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know, the cells that need a word, the findings, and the counts."""
    lines = [f"convention  {record['convention']}: {record['convention_text']} [GMACs]", ""]
    lines += _cell_notes(record)
    lines += ["", f"Findings: {len(record['findings'])}"]
    for number, found in enumerate(record["findings"], start=1):
        lines += [f"{number}. {found['title']}.", *(f"   {sentence}" for sentence in found["sentences"])]
    return [*lines, *general_lines(record), "", *count_lines(record)]


def general_lines(record: Mapping[str, Any]) -> list[str]:
    """What the rules for anybody's tables find, in lines; none where not all tables are reported."""
    general = record.get("general")
    if not general:
        return []
    counts = ", ".join(f"{n} {name}" for name, n in general["counts"]["findings"].items())
    lines = [
        "",
        f"By the rules for anybody's table (segmeter audit results/published/proscale.csv): {counts}",
    ]
    for one in general["findings"]:
        if one["sure"] != "cannot be known":
            lines.append(f"   {one['sure']}, {one['rule']}: {one['text']} ({one['arithmetic']})")
    return lines


def _cell_notes(record: Mapping[str, Any]) -> list[str]:
    """What the audit says of cells that the stated size does not give, equal notes told once."""
    noted: dict[tuple[str, str], list[str]] = {}
    for cell in record["cells"]:
        if cell["note"] and cell["verdict"] != "stated size":
            parts = [part for part in cell["note"].split("; ") if not OWN_FIGURE.fullmatch(part)]
            place = f"{cell['table']}.{cell['row']} {cell['what']}"
            noted.setdefault((cell["verdict"], "; ".join(parts)), []).append(place)
    return [f"{verdict}: {', '.join(places)}: {note}" for (verdict, note), places in sorted(noted.items())]


def count_lines(record: Mapping[str, Any]) -> list[str]:
    """Counts by verdict, and the share of the modelled systems' cells that is reproduced."""
    counts = record["counts"]
    if not counts["cells"]:
        return ["no GFLOPs cells in this selection"]
    lines = [f"{counts['cells']} GFLOPs cells"]
    for verdict, number in counts["verdicts"].items():
        if number:
            lines.append(f"  {number:3d} {verdict}: {record['verdicts'][verdict]}")
    if counts["family_cells"]:
        lines += [f"{record['scopes']['family']}: {verdict_line(counts)}", chance_line(record["chance"])]
    return lines


def audit_text(record: Mapping[str, Any], kind: str) -> str:
    """The audit as a document.

    Args:
        record: what :func:`harness.audit.run.run_audit` returns.
        kind: one of :data:`FORMATS`: ``csv`` holds the GFLOPs cells, the others all.
    """
    return {"md": _markdown, "csv": _csv, "latex": _latex}[kind](record)


def _markdown(record: Mapping[str, Any]) -> str:
    sections = ["# The published tables, audited", *_introduction(record)]
    for number, cells in _by_table(record).items():
        rows = [_cell_row(cell) for cell in cells]
        sections += [f"## Table {number}", markdown_table(CELL_HEADER, rows)]
    percentages = _percent_rows(record, all_of_them=True)
    if percentages:
        sections += ["## Printed percentages", markdown_table(PERCENT_HEADER, percentages)]
    if record["fps"]:
        sections += [
            "## Images a second against M2F",
            markdown_table(FPS_HEADER, fps_rows(record["fps"])),
        ]
        measured = speed_record_rows(record)
        if measured:
            sections += ["### Every record of these", markdown_table(SPEED_HEADER, measured)]
    notes = _cell_notes(record)
    if notes:
        sections += ["## Notes on cells (table.row)", "\n".join(f"- {markdown(note)}" for note in notes)]
    sections.append("## Findings")
    sections += [
        f"{n}. **{markdown(f['title'])}.** {markdown(f['text'])}"
        for n, f in enumerate(record["findings"], start=1)
    ]
    general = general_lines(record)
    if general:
        sections += [
            "## By the general rules",
            "\n".join(f"- {markdown(line.strip())}" for line in general[1:]),
        ]
    sections += [
        "## Counts",
        "\n".join(f"- {line.strip()}" for line in count_lines(record)),
        "## Made with",
        ", ".join(f"{package} {number}" for package, number in record["versions"].items()),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(record: Mapping[str, Any]) -> list[str]:
    return [
        f"Figures are GMACs in the `{record['convention']}` convention: {record['convention_text']}. "
        f"COCO totals are means; first tried: {record['images']}."
    ]


def _csv(record: Mapping[str, Any]) -> str:
    return csv_text([CSV_COLUMNS, *([cell[name] for name in CSV_COLUMNS] for cell in record["cells"])])


def _latex(record: Mapping[str, Any]) -> str:
    """One booktabs table for each of the paper's; needs \\usepackage{booktabs} and nothing else."""
    parts = []
    for number, cells in _by_table(record).items():
        caption = f"The paper's Table {number}, audited; GMACs, {record['convention']} convention."
        parts.append(latex_table(caption, CELL_HEADER, [_cell_row(cell) for cell in cells]))
    percentages = _percent_rows(record)
    if percentages:
        # The last column's sentences are too long for a line.
        rows = [row[:-1] for row in percentages]
        parts.append(latex_table("Printed percentages that do not hold.", PERCENT_HEADER[:-1], rows))
    if record["fps"]:
        rows = [row[:-1] for row in fps_rows(record["fps"])]
        parts.append(latex_table("Images a second against M2F.", FPS_HEADER[:-1], rows))
    items = "\n".join(f"\\item \\textbf{{{_tex(f['title'])}.}} {_tex(f['text'])}" for f in record["findings"])
    if items:
        parts.append(f"\\begin{{enumerate}}\n{items}\n\\end{{enumerate}}")
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def latex_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs ``table`` environment."""
    columns = "".join("l" if name in WORDS else "r" for name in header)
    lines = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in (header, *rows)]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            f"\\caption{{{_tex(caption)}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _tex(text: str) -> str:
    quoted = re.sub(r'"([^"]*)"', r"``\1''", latex(text))
    # A minus before a figure, not the hyphen of a word.
    return re.sub(r"(?<![\w)])-(?=\d)", "$-$", quoted)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _by_table(record: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]]:
    tables: dict[int, list[Mapping[str, Any]]] = {}
    for cell in record["cells"]:
        tables.setdefault(cell["table"], []).append(cell)
    return tables


def _cell_row(cell: Mapping[str, Any]) -> list[str]:
    measured, off = cell["measured_gmacs"], cell["difference_percent"]
    how = f" ({cell['print']})" if cell["print"] not in ("", "rounded") else ""
    return [
        str(cell["row"]),
        cell["model"],
        cell["backbone"],
        cell["dataset"],
        cell["what"],
        printed(cell["printed"]),
        "-" if measured is None else giga(measured),
        # No difference is never a negative one.
        "-" if off is None else percent(round(off, 2) + 0.0, signed=True),
        cell["size"],
        cell["verdict"] + how,
    ]


def _percent_rows(record: Mapping[str, Any], all_of_them: bool = False) -> list[list[str]]:
    return [
        [
            str(p["table"]),
            str(p["row"]),
            f"{p['model']}, {p['backbone']}",
            p["what"],
            percent(p["printed"], signed=True),
            percent(p["from_printed"], signed=True),
            "-" if p["one_size"] is None else percent(p["one_size"], signed=True),
            p["note"],
        ]
        for p in record["percentages"]
        if all_of_them or not p["agrees"] or p["crosses_sizes"]
    ]


def fps_rows(speeds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows under :data:`FPS_HEADER`, of :func:`harness.audit.speeds.fps_records`."""
    return [
        [
            str(s["table"]),
            str(s["row"]),
            f"{s['model']}, {s['backbone']}",
            s["dataset"],
            f"{s['published_fps']:.2f}",
            "-" if s["published_ratio"] is None else f"{s['published_ratio']:.2f}",
            _ratio(s),
            "; ".join(part for part in (s["where"], s["note"]) if part),
        ]
        for s in speeds
    ]


def _ratio(speed: Mapping[str, Any]) -> str:
    if speed["measured_ratio"] is None:
        return "-"
    low, high = speed["interval"]
    return f"{speed['measured_ratio']:.2f} ({low:.2f} to {high:.2f}){records_range(speed)}"


def records_range(speed: Mapping[str, Any]) -> str:
    """What the other records of a speed give, where there are any."""
    ratios = [one["ratio"] for one in speed.get("records", ())]
    if len(ratios) < 2:
        return ""
    return f"; {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} records"


def speed_record_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Each record of each model's speed once, whichever figures it is held against."""
    rows: dict[str, list[str]] = {}
    for speed in record["fps"]:
        for one in speed.get("records", ()):
            low, high = one["interval"]
            name = f"{speed['model']}, {speed['backbone']}"
            rows[one["record"]] = [
                *(name, f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})", one["where"], one["record"])
            ]
    return list(rows.values())

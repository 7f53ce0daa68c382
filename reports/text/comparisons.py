"""An audit of anybody's tables for a terminal, Markdown, JSON and SARIF. Reads records only."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rich.table import Table

from segmeter.plain import json_text, markdown, plain
from segmeter.reports.text.markdown import markdown_table

FORMATS = ("md", "sarif")
FINDINGS = ("how sure", "rule", "at", "finding", "arithmetic")
MEASURED = ("at", "model", "printed", "counted", "verdict", "by chance", "counted as")
# How SARIF names what is how sure.
SARIF_LEVELS = {"contradiction": "error", "suspicious": "warning", "cannot be known": "note"}


def comparison_tables(record: Mapping[str, Any]) -> list[Table]:
    """The findings, the surest first, and the figures that were counted."""
    tables = []
    if record["findings"]:
        tables.append(_table("What does not hold", FINDINGS, finding_rows(record)))
    if record["measured"]:
        tables.append(_table("Counted", MEASURED, measured_rows(record)))
    return tables


def comparison_notes(record: Mapping[str, Any]) -> list[str]:
    """What was read, and the counts."""
    lines = []
    for table in record["tables"]:
        columns = ", ".join(f"{c['header']}: {_kind(c)}" for c in table["columns"] if c["kind"] != "other")
        lines.append(plain(f"{table['file']} table {table['number']}: {table['rows']} rows; {columns}"))
        if table["citation"]:
            lines.append(plain(f"  {table['citation']}"))
    for rule, number in record["left_out"].items():
        lines.append(f"{number:,} more findings of rule {rule} are counted and not shown")
    for verdict, text in record["verdicts"].items():
        if record["counts"]["verdicts"].get(verdict):
            lines.append(f"{verdict}: {text}")
    return [*lines, *count_lines(record)]


def count_lines(record: Mapping[str, Any]) -> list[str]:
    """How many findings of which sureness, on how many figures."""
    counts = record["counts"]
    found = ", ".join(f"{number:,} {name}" for name, number in counts["findings"].items())
    lines = [f"{counts['figures']:,} figures, {counts['accused']:,} of them named by a finding: {found}"]
    if counts["verdicts"]:
        lines.append("counted: " + ", ".join(f"{n} {name}" for name, n in counts["verdicts"].items()))
    shares = [one["by_chance"] for one in record["measured"] if one["verdict"] == "reproduced"]
    if shares:
        mean, most = 100 * sum(shares) / len(shares), 100 * max(shares)
        lines.append(
            f"of wrong figures, moved by 0.5 to 20 %, {mean:.1f} % would be called reproduced as well "
            f"({most:.1f} % at most, of 400 for each figure)"
        )
    return lines


def rendered(record: Mapping[str, Any], form: str) -> str:
    """The record in one of :data:`FORMATS`."""
    return {"md": _markdown, "sarif": sarif}[form](record)


def finding_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of findings."""
    rows = []
    for one in record["findings"]:
        cells = one["cells"]
        at = "; ".join(_at(cell) for cell in cells) or f"{one['table'][0]} table {one['table'][1]}"
        rows.append([one["sure"], f"{one['level']}: {one['rule']}", at, one["text"], one["arithmetic"]])
    return rows


def measured_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of counted figures."""
    rows = []
    for one in record["measured"]:
        counted = "-" if one["counted"] is None else f"{one['counted']:.4g}"
        chance = "" if one["by_chance"] is None else f"{100 * one['by_chance']:.1f} %"
        how = "; ".join(text for text in (one["counted_as"], one["size"].strip("-"), one["note"]) if text)
        rows.append([_at(one), one["model"], one["printed"], counted, one["verdict"], chance, how])
    return rows


def _at(cell: Mapping[str, Any]) -> str:
    return f"{cell['file']}:{cell['line']} {cell['column']}"


def _kind(column: Mapping[str, Any]) -> str:
    parts = (
        column["part"],
        column["of"] if column["kind"] == "change" else "",
        column["kind"],
        column["unit"],
    )
    return " ".join(part for part in parts if part)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _markdown(record: Mapping[str, Any]) -> str:
    sections = ["# Tables, audited", *(markdown(line) for line in comparison_notes(record))]
    if record["findings"]:
        sections += ["## What does not hold", markdown_table(FINDINGS, finding_rows(record), words=True)]
    if record["measured"]:
        sections += ["## Counted", markdown_table(MEASURED, measured_rows(record))]
    return "\n\n".join(sections) + "\n"


def sarif(record: Mapping[str, Any]) -> str:
    """SARIF 2.1.0, as code-scanning services read it: each finding at the lines of its cells."""
    results = []
    for one in record["findings"]:
        text = one["text"] + (f" ({one['arithmetic']})" if one["arithmetic"] else "")
        places = [(cell["file"], cell["line"]) for cell in one["cells"]] or [(one["table"][0], 1)]
        results.append(
            {
                "ruleId": one["rule"],
                "level": SARIF_LEVELS[one["sure"]],
                "message": {"text": plain(text)},
                "locations": [
                    {
                        "physicalLocation": {
                            "artifactLocation": {"uri": quote(file), "uriBaseId": "%SRCROOT%"},
                            "region": {"startLine": line},
                        }
                    }
                    for file, line in places
                ],
            }
        )
    rules = [
        {"id": name, "shortDescription": {"text": f"{rule['level']}: {rule['text']}"}}
        for name, rule in record["rules"].items()
    ]
    driver = {"name": "segmeter", "rules": rules}
    content = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json_text(content) + "\n"

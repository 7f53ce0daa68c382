"""Records beside each other as tables, for a terminal and for a document; reads records only."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import markdown, plain
from segmeter.reports.text.markdown import markdown_table
from segmeter.reports.text.profile import conditions, number

Header = Sequence[str]
Rows = list[list[str]]


def comparison_tables(compared: Mapping[str, Any]) -> list[Table]:
    """One table for each set of equal conditions."""
    tables = []
    for group in compared["groups"]:
        table = Table(title=conditions(group["settings"]), title_justify="left")
        header, rows = _group_cells(group)
        ways = {row["how"] for row in group["rows"]} - {"baseline"}
        said = [component_sums(group)]
        if len(ways) == 1:
            # The same for all ratios: said once, below.
            said = [f"ratios to {group['rows'][0]['title']}: {ways.pop()}", *said]
            header, rows = header[:-1], [row[:-1] for row in rows]
        table.caption, table.caption_justify = "; ".join(filter(None, said)), "left"
        _fill(table, header, rows)
        tables.append(table)
    return tables


def component_sums(group: Mapping[str, Any]) -> str:
    """How far the components' times add up to the whole, in one line; empty where that was not measured."""
    sums = group.get("component_sums")
    if not sums:
        return ""
    mean = f"components add up to {100 * sums['mean']:.1f} % of the whole"
    if sums["records"] == 1:
        return mean
    lowest, highest = 100 * sums["lowest"], 100 * sums["highest"]
    return f"{mean} on average over {sums['records']} records, {lowest:.1f} to {highest:.1f} %"


def _group_cells(group: Mapping[str, Any]) -> tuple[Header, Rows]:
    header = (
        "model",
        "environment",
        "median ms",
        "95 % interval",
        "images/s",
        "times faster",
        "95 % interval",
    )
    rows = [
        [
            row["title"],
            row["environment"],
            number(row["median_ms"], 4),
            _span(row["low_ms"], row["high_ms"]),
            number(row["fps"]),
            "1" if row["how"] == "baseline" else _times(row["times_faster"]),
            _span(row["low"], row["high"]),
            row["verdict"] or ("baseline" if row["how"] == "baseline" else ""),
            "" if row["how"] == "baseline" else row["how"],
        ]
        for row in group["rows"]
    ]
    return (*header, "verdict", "ratio from"), rows


def environment_lines(compared: Mapping[str, Any]) -> list[str]:
    """Which environments the records come from, and in what they differ."""
    lines = []
    for machine in compared["environments"]:
        number_of = len(machine["records"])
        lines.append(
            f"environment {machine['name']}  {machine['device_name']}, "
            f"{number_of} {'record' if number_of == 1 else 'records'}"
        )
        for key, (first, here) in machine["differs_from_first"].items():
            lines.append(f"  {key}: {here} (A: {first})")
    if compared["same_environment"]:
        lines.append("all records come from the same environment")
    else:
        lines.append(
            "ENVIRONMENTS DIFFER: a ratio across two of them is not one of models alone; "
            "ratios taken in turn are within one"
        )
    lines += [f"left out  {record}: {status}" for record, status in compared["left_out"].items()]
    return lines


PUBLISHED_HEADER = (
    "model",
    "backbone",
    "paper's table",
    "FPS, A6000",
    "M2F's",
    "times M2F, A6000",
    "times M2F, measured",
    "95 % interval",
    "measured on",
)


def published_cells(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """The paper's ratios beside the measured ones."""
    cells = []
    for row in rows:
        stages = f" ({row['stages']})" if row["stages"] else ""
        seen = row["measured"]
        m2f_from = "" if row["m2f_table"] == row["table"] else f" (Table {row['m2f_table']})"
        cells.append(
            [
                f"{row['model']}{stages}",
                row["backbone"],
                f"{row['table']}, {row['dataset']}, {row['image_size']}",
                f"{row['fps']:.2f}",
                f"{row['m2f_fps']:.2f}{m2f_from}",
                f"{row['times_faster']:.2f}",
                "-" if seen is None else _times(seen["times_faster"]),
                "-" if seen is None else _span(seen["low"], seen["high"]),
                "no record" if seen is None else conditions(seen),
            ]
        )
    return cells


def published_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """As :func:`published_cells`, for a terminal."""
    table = Table(title="FPS as ratios to M2F: the paper's A6000 beside these records", title_justify="left")
    _fill(table, PUBLISHED_HEADER, published_cells(rows))
    return table


def comparison_markdown(compared: Mapping[str, Any]) -> str:
    """Every table and line as markdown."""
    sections = []
    for group in compared["groups"]:
        sections += [f"**{markdown(conditions(group['settings']))}**", markdown_table(*_group_cells(group))]
        sections += [said] if (said := component_sums(group)) else []
    if "published" in compared:
        sections.append("**FPS as ratios to M2F: the paper's A6000 beside these records**")
        sections.append(markdown_table(PUBLISHED_HEADER, published_cells(compared["published"])))
    sections.append("\n".join(f"    {plain(line)}" for line in environment_lines(compared)))
    return "\n\n".join(sections)


def _fill(table: Table, header: Header, rows: Rows) -> None:
    for index, name in enumerate(header):
        # Words stay left; figures stand under each other.
        words = index == 0 or name in ("environment", "verdict", "ratio from", "backbone", "measured on")
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{number(low, 4)} to {number(high, 4)}"

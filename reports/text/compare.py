"""Records beside each other as tables, for a terminal and for a document; reads records only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.plain import markdown, plain
from segmeter.reports.text.markdown import markdown_table
from segmeter.reports.text.profile import condition_words, conditions, number

Header = Sequence[str]
Rows = list[list[str]]


def comparison_tables(compared: Mapping[str, Any]) -> list[Table]:
    """One table for each set of equal conditions."""
    tables = []
    for title, header, rows, said in _groups(compared):
        table = Table(title=title, title_justify="left", caption=said, caption_justify="left")
        _fill(table, header, rows)
        tables.append(table)
    return tables


def _groups(compared: Mapping[str, Any]) -> Iterator[tuple[str, Header, Rows, str]]:
    """Title, header, rows and caption of each set of conditions; what all rows share is said once."""
    for group in compared["groups"]:
        header, rows = _group_cells(group)
        ways = {row["how"] for row in group["rows"]} - {"baseline"}
        said = []
        if len(ways) == 1:
            said = [f"ratios: {ways.pop()}"]
            header, rows = header[:-1], [row[:-1] for row in rows]
        if compared["same_environment"]:
            header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
        title = f"{conditions(group['settings'])}; times faster than {_baseline_title(group)}"
        yield title, header, rows, "; ".join(filter(None, [*said, component_sums(group)]))


def _baseline_title(group: Mapping[str, Any]) -> str:
    return next(
        (row["title"] for row in group["rows"] if row["model"] == group["baseline"]), group["baseline"]
    )


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


def published_tables(compared: Mapping[str, Any]) -> list[Table | str]:
    """The paper's ratios beside the measured ones; lines alone where no record has one."""
    title, header, rows, said = _published(compared)
    if not rows:
        return [title, said]
    table = Table(title=title, title_justify="left", caption=said, caption_justify="left")
    _fill(table, header, rows)
    return [table]


def _published(compared: Mapping[str, Any]) -> tuple[str, Header, Rows, str]:
    """Title, header, rows and caption: one row for each model, one column for each set of conditions.

    Rows of two of the paper's tables with equal figures of one model are one row, that names both.
    """
    measured = [row["measured"] for row in compared["published"] if row["measured"]]
    words = {_words(seen, compared): None for seen in measured}
    shared = [word for word in next(iter(words), ()) if all(word in other for other in words)]
    columns = {ways: ", ".join(w for w in ways if w not in shared) or "measured" for ways in words}
    models: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in compared["published"]:
        name = f"{row['model']} ({row['stages']})" if row["stages"] else row["model"]
        figures = (f"{row['fps']:.2f}", f"{row['m2f_fps']:.2f}", f"{row['times_faster']:.2f}")
        key = (name, row["backbone"], row["dataset"], row["image_size"], *figures)
        found = models.setdefault(key, {"tables": [], "measured": {}})
        if row["table"] not in found["tables"]:
            found["tables"].append(row["table"])
        if seen := row["measured"]:
            span = "" if seen["low"] is None else f" ({_span(seen['low'], seen['high'])})"
            found["measured"][_words(seen, compared)] = f"{_times(seen['times_faster'])}{span}"
    rows = [
        [
            name,
            backbone,
            f"{' and '.join(map(str, found['tables']))}, {dataset}, {size}",
            fps,
            base,
            times,
            *(found["measured"].get(ways, "-") for ways in columns),
        ]
        for (name, backbone, dataset, size, fps, base, times), found in models.items()
        if found["measured"]
    ]
    missing = [f"{key[0]} with {key[1]}" for key, found in models.items() if not found["measured"]]
    said = ["in brackets the 95 % interval"] if rows else []
    said += [f"no record of {', '.join(missing)}"] if missing else []
    where = f", at {', '.join(shared)}" if shared else ""
    title = f"FPS as ratios to M2F: the paper's, on an A6000, beside these records{where}"
    header = [
        "model",
        "backbone",
        "paper's table",
        "FPS, A6000",
        "M2F's",
        "times M2F, A6000",
        *columns.values(),
    ]
    return title, header, rows, "; ".join(said)


def _words(seen: Mapping[str, Any], compared: Mapping[str, Any]) -> tuple[str, ...]:
    """What a measurement's column is headed by."""
    machine = () if compared["same_environment"] else (f"environment {seen['environment']}",)
    return (*condition_words(seen), *machine)


def comparison_markdown(compared: Mapping[str, Any]) -> str:
    """Every table and line as markdown."""
    sections = []
    for title, header, rows, said in [_published(compared)] if "published" in compared else _groups(compared):
        sections += [f"**{markdown(title)}**", *([markdown_table(header, rows)] if rows else [])]
        sections += [markdown(said)] if said else []
    sections.append("\n".join(f"    {plain(line)}" for line in environment_lines(compared)))
    return "\n\n".join(sections)


def _fill(table: Table, header: Header, rows: Rows) -> None:
    for index, name in enumerate(header):
        # Words stay left; figures stand under each other.
        words = index == 0 or name in ("environment", "verdict", "ratio from", "backbone", "paper's table")
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{number(low, 4)} to {number(high, 4)}"

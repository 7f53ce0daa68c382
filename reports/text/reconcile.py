"""A reconciliation for a terminal: what gives a printed figure, and how likely chance would have done it."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from segmeter.reports.units import giga, percent

VERDICTS = {
    "explained": "the first match is credible",
    "by chance at best": "nothing does, but for matches that chance brings when so many are tried",
    "nothing does": "no unit, path, boundary and size tried gives it",
}


def reconcile_table(record: Mapping[str, Any]) -> Table:
    """The matches, the most credible first."""
    table = Table(title=f"What gives {record['published']} for {record['title']}", title_justify="left")
    for name in ("unit", "counting path", "what is summed", "at"):
        table.add_column(name)
    for name in ("gives", "off", "plausible", "by chance"):
        table.add_column(name, justify="right")
    table.add_column("rounding")
    for match in record["matches"]:
        table.add_row(
            match["unit"],
            match["path"],
            match["boundary"],
            match["size"],
            giga(match["giga"]),
            percent(match["off_percent"], signed=True),
            f"{match['plausibility']:.3f}",
            f"{match['by_chance']:.2f}",
            match["rounding"],
        )
    return table


def reconcile_notes(record: Mapping[str, Any]) -> list[str]:
    """The verdict, what was tried, and the nearest misses."""
    windows = "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in record["ranges"].items())
    matches = len(record["matches"]) + record["more_matches"]
    lines = [
        f"{record['verdict']}: {VERDICTS[record['verdict']]}",
        f"tried {record['tried']} combinations of unit, counting path, boundary and size; {matches} match",
        f"would print as {record['published']}: {windows}",
    ]
    if record["matches"]:
        paths = {match["path"]: match["path_text"] for match in record["matches"]}
        lines += [f"  {path}: {text}" for path, text in paths.items()]
        lines.append(
            "plausible: 1 is the papers' own way; by chance: matches to expect from luck alone among the "
            "combinations that are at least as plausible"
        )
    for miss in record["nearest"]:
        lines.append(
            f"near miss: {giga(miss['giga'])} ({percent(miss['off_percent'], signed=True)}), "
            f"{miss['boundary']} at {miss['size']}, {miss['unit']}, {miss['path']}"
        )
    return lines

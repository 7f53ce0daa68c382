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
            match["size"] + _setup(match),
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
        f"a wrong figure would be explained {100 * record['explained_by_chance']:.1f} % of the time: of "
        f"{record['draws']} figures of as many digits, 0.5 to 20 % away",
        f"tried {record['tried']} combinations of unit, counting path, boundary, size, classes and queries; "
        f"{matches} match",
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
            f"{miss['boundary']} at {miss['size']}{_setup(miss)}, {miss['unit']}, {miss['path']}"
        )
    return lines


def _setup(found: Mapping[str, Any]) -> str:
    return f", {found['setup']}" if found["setup"] else ""


def joint_table(record: Mapping[str, Any]) -> Table:
    """The ways to count that give all figures with one offset, the least offset first; else the nearest."""
    table = Table(title=f"What gives {len(record['figures'])} figures at once", title_justify="left")
    for name in ("unit", "counting path", "what is summed", "at", "rounding"):
        table.add_column(name)
    for name in ("offset", "spread", "plausible"):
        table.add_column(name, justify="right")
    for one in record["solutions"] or record["nearest"]:
        table.add_row(
            one["unit"],
            one["path"],
            one["boundary"],
            one["size"] + _setup(one),
            one["rounding"],
            f"{one['offset']:+.2f}",
            f"{one['spread']:.2f}",
            f"{one['plausibility']:.3f}",
        )
    return table


def joint_notes(record: Mapping[str, Any]) -> list[str]:
    """The verdict, each figure beside the first way to count, and what chance would have done."""
    found = (record["solutions"] or record["nearest"])[:1]
    verdict = {
        "no offset": "one unit, size and boundary give all figures as they stand",
        "one offset": "one unit, size and boundary give all figures but for one amount in each",
        "nothing does": "no unit, size and boundary gives all, with one offset or without; the nearest",
    }[record["verdict"]]
    lines = [f"{record['verdict']}: {verdict}"]
    for one in found:
        for figure, giga_ in zip(record["figures"], one["counted"], strict=True):
            lines.append(
                f"  {figure['model']}: printed {figure['published']}, counted {giga(giga_)}, "
                f"printed less counted {figure['value'] - giga_:+.2f}"
            )
    lines.append(
        f"tried {record['tried']} combinations; with one of the figures moved by 0.5 to 20 %, "
        f"{100 * record['solved_by_chance']:.1f} % of {record['draws']} such sets are solved as well"
    )
    return lines

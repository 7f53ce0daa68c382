"""A leaderboard as one static page: search, budgets, one uniform count; its data lie inside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.reports.html.parts import Cell, Html, Number, embedded_json, figure_cell, join, table, tag
from segmeter.reports.html.shell import FOOTER, whole_page
from segmeter.reports.plots.common import DATASET_TITLES

TITLE = "Segmentation models by cost"
SCRIPTS = ("page.js", "tables.js", "site.js")
# Column -> the row's field; those without a figure in any row are left out.
QUALITIES = {"PQ": "pq", "mIoU": "miou", "AP": "ap"}


def site_html(record: Mapping[str, Any], command: str = "segmeter report --site") -> str:
    """The page of :func:`harness.leaderboard.leaderboard`'s record; everything in it is escaped."""
    parts = {
        "models": ("Models", _models(record)),
        "reading": ("Reading it", _reading(record)),
        "gaps": ("What is missing", _gaps(record)),
    }
    sections = [
        tag(
            "section",
            tag("h2", title, id=f"{name}-title"),
            content,
            id=name,
            aria_labelledby=f"{name}-title",
        )
        for name, (title, content) in parts.items()
        if content
    ]
    links = [
        tag("li", tag("a", title, href=f"#{name}")) for name, (title, content) in parts.items() if content
    ]
    theme = tag("button", "Dark colours", id="theme", type="button", hidden=True)
    body = join(
        [
            tag("a", "Skip to the models", href="#main", class_="skip"),
            tag("header", tag("h1", TITLE), tag("p", _lead(record), class_="lead"), class_="top"),
            tag("nav", tag("div", tag("ul", *links), theme), class_="bar", aria_label="Sections"),
            tag("main", *sections, id="main", tabindex="-1"),
            tag("footer", tag("p", "Made by ", tag("code", command), f" on {record['made'][:10]}. ", FOOTER)),
        ]
    )
    return whole_page(f"{TITLE}: segmeter", body, SCRIPTS)


def _lead(record: Mapping[str, Any]) -> str:
    rows = record["rows"]
    models = len({row["title"] for row in rows})
    times = sum(row["ms"] is not None for row in rows)
    return (
        f"{models} models, all counted alike: {record['unit']} of one image of {record['size']}, convention "
        f"'{record['convention']}'. {times} times, each with its machine."
    )


def _models(record: Mapping[str, Any]) -> Html:
    rows = record["rows"]
    shown = {title: key for title, key in QUALITIES.items() if any(row[key] is not None for row in rows)}
    unit = record["unit"]
    header = ["model", f"total {unit}", f"encoder {unit}", "parameters, M", "ms", "images/s"]
    header += ["machine and setting", *(["data set", *shown] if shown else []), "from"]
    cells = [_row(row, shown) for row in rows]
    found = table(
        f"{unit} of one image of {record['size']}; times with 95 % intervals",
        header,
        cells,
        name="models-table",
        keys=[str(place) for place in range(len(rows))],
    )
    data = {"size": record["size"], "unit": unit, "settings": record["settings"], "rows": rows}
    return join(
        [
            tag("noscript", tag("p", "Search and budgets need scripts; the table does not.")),
            tag("div", id="budgets", hidden=True),
            found,
            tag("script", embedded_json(data), type="application/json", id="site-data"),
        ]
    )


def _row(row: Mapping[str, Any], shown: Mapping[str, str]) -> list[Cell]:
    quality: list[Cell] = [figure_cell(row[key]) for key in shown.values()]
    if shown:
        quality = [DATASET_TITLES.get(row["dataset"], row["dataset"]) or "-", *quality]
    return [
        row["title"],
        figure_cell(row["total"]),
        figure_cell(row["encoder"]),
        figure_cell(row["parameters"]),
        _time(row),
        figure_cell(row["fps"]),
        row["setting"] or "-",
        *quality,
        row["source"],
    ]


def _time(row: Mapping[str, Any]) -> Number:
    ms = row["ms"]
    if ms is None:
        return Number("-", None)
    low, high = row["ms_low"], row["ms_high"]
    interval = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return Number(f"{ms:.1f}{interval}", ms)


def _reading(record: Mapping[str, Any]) -> Html:
    lines = [
        f"Costs are counted by segmeter, at one size and in one convention for all: {record['size']}, "
        f"'{record['convention']}' ({record['convention_text']}), batch 1.",
        "Times come from records. They are to be compared within one machine and setting only: choose one "
        "above. Where its size is not that of the count, its name says so.",
        "Qualities come from quality records, on the data set named.",
        "Add a row: put a record file (of segmeter profile, evaluate or card) beside the others and run the "
        "command again.",
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    told = tag("ul", *(tag("li", line) for line in lines))
    return join([told, tag("p", f"Counted with {versions}.", class_="note")])


def _gaps(record: Mapping[str, Any]) -> Html:
    found: list[Html] = []
    for title, pairs in (
        ("Models without a cost, or with a part of it", list(record["not_counted"].items())),
        ("Files passed over", [(one["file"], one["why"]) for one in record["passed_over"]]),
    ):
        if pairs:
            found += [tag("h3", title), _list(pairs)]
    if record["left_out"]:
        found.append(tag("p", f"{record['left_out']:,} rows more than a page holds are left out."))
    return join(found)


def _list(pairs: Sequence[tuple[str, str]]) -> Html:
    return tag("ul", *(tag("li", tag("code", name), f": {why}") for name, why in pairs))

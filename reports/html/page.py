"""The report as one self-contained HTML page: no request leaves it, so a mail attachment will do."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.reports.html import sections
from segmeter.reports.html.answer import answer
from segmeter.reports.html.audit import audit, summary
from segmeter.reports.html.parts import Html, embedded_json, inline_svg, join, picture, tag
from segmeter.reports.html.shell import FOOTER, whole_page
from segmeter.reports.html.tokens import tokens_answer, tokens_section
from segmeter.reports.plots.common import DATASET_TITLES
from segmeter.reports.plots.named import KINDS, REPORT_PARETO
from segmeter.reports.plots.style import DARK, look_of
from segmeter.reports.text.tokens import TITLES as TOKEN_FIGURES

TITLE = "What segmentation encoders cost"
SCRIPTS = ("page.js", "tables.js", "front.js", "chart.js")
# Figures wide enough for the whole column; the others stand two beside each other.
ONE_COLUMN_POINTS = 300
# Figures of their own option are drawn on a backbone; these two compare backbones or timing records.
WITHOUT_BACKBONE = ("backbones",)
# What a reader wants first, in a handful of screens; the others are to look things up.
ANSWERS = ("summary", "speed", "measured", "tokens", "audit")
ABOUT_SECTIONS = {
    "summary": "Which encoder?",
    "speed": "Speed",
    "measured": "Components",
    "tokens": "Tokens",
    "audit": "Audit",
    "trade-offs": "All points",
    "costs": "Costs in full",
    "tokens-in-full": "Tokens in full",
    "audit-in-full": "Audit in full",
    "figures": "Figures",
    "forward": "Forward passes",
    "records": "Records",
}


def report_html(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> str:
    """The whole report as one page.

    Args:
        report: the record of :func:`harness.report.run_report`.
        drawings: name -> (SVG text or ``data:`` address of a picture, caption), as written by
            :mod:`reports.write`; those of :data:`reports.text.tokens.TITLES` go with the tokens.

    Returns:
        The text of ``report.html``; everything in it that is not of this project's own making is escaped.
    """
    parts = _sections(report, drawings)
    links = [tag("li", tag("a", ABOUT_SECTIONS[name], href=f"#{name}")) for name in parts]
    first = [part for name, part in parts.items() if name in ANSWERS]
    others = [part for name, part in parts.items() if name not in ANSWERS]
    theme = tag("button", "Dark colours", id="theme", type="button", hidden=True)
    bar = tag("div", tag("ul", *links), theme)
    body = join(
        [
            tag("a", "Skip to the report", href="#main", class_="skip"),
            tag("header", tag("h1", TITLE), tag("p", _subtitle(report), class_="lead"), class_="top"),
            tag("nav", bar, class_="bar", aria_label="Sections"),
            tag("main", *first, tag("p", APPENDICES, class_="divider"), *others, id="main", tabindex="-1"),
            tag("footer", tag("p", "Made by ", tag("code", report["command"]), ". ", FOOTER)),
        ]
    )
    css = looks_css(sections.chart_points(report["figures"]["points"]))
    return whole_page(f"{TITLE}: segmeter report", body, SCRIPTS, css)


def _sections(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> dict[str, Html]:
    """Name -> section, those with something in them: first the answers, then the appendices."""
    contents = {**_answers(report, drawings), **_appendices(report, drawings)}
    return {
        name: tag(
            "section",
            tag("h2", ABOUT_SECTIONS[name], id=f"{name}-title"),
            content,
            id=name,
            aria_labelledby=f"{name}-title",
        )
        for name, content in contents.items()
        if content
    }


def _answers(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> dict[str, Html]:
    """What a reader came for, in the order of the questions."""
    tokens = [tokens_answer(report["tokens"], report["tokens_missing"])]
    if report["tokens"]:
        tokens.append(_more("tokens-in-full", "Similarities and figures"))
    measured = tag("p", sections.measured_text(report), class_="note")
    costs = _more("costs", "Each size and part in a table")
    return {
        "summary": join([answer(report, drawings), measured]),
        "speed": _gallery(report, drawings, "realised"),
        "measured": join([_gallery(report, drawings, "breakdown"), costs]),
        "tokens": join(tokens),
        "audit": join([summary(report), _more("audit-in-full", "Every cell, percentage and finding")]),
    }


def _appendices(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> dict[str, Html]:
    """Every point, cost, cell, figure and record."""
    of_tokens = {name: drawing for name, drawing in drawings.items() if name in TOKEN_FIGURES}
    # Two figures stand among the answers.
    shown_above = {"realised", "breakdown", *of_tokens}
    others = {name: drawing for name, drawing in drawings.items() if name not in shown_above}
    first = next(iter(report["records"].values()))
    in_full = Html("")
    if report["tokens"]:
        gallery = tag("div", *_figures(report, of_tokens), class_="gallery")
        in_full = join([tokens_section(report["tokens"]), gallery])
    return {
        "trade-offs": _points(sections.chart_points(report["figures"]["points"])),
        "costs": join(
            [sections.measured_costs(report), tag("h3", "Not counted"), sections.not_counted(first)]
        ),
        "tokens-in-full": in_full,
        "audit-in-full": join([tag("p", AUDIT), audit(report["audit"])]),
        "figures": join(
            [
                tag("p", "Each as a PDF, an SVG or a PNG by the command below it."),
                tag("div", *_figures(report, others), class_="gallery"),
            ]
        ),
        "forward": sections.forward_passes(report["forward_passes"]),
        "records": join(
            [
                tag("p", "Everything above comes from these records; report.json holds them all."),
                sections.record_details(report),
                sections.figure_data_details({**report["figures"], "tokens": _shown(report["tokens"])}),
                tag("h3", "Made with"),
                sections.environment(report),
            ]
        ),
    }


def _points(points: Sequence[Mapping[str, Any]]) -> Html:
    """The chart that a reader can set, and its points as a table."""
    return join(
        [
            tag("p", TRADE_OFFS),
            tag("noscript", tag("p", "The chart needs scripts; the table and the figures below do not.")),
            tag("div", id="chart", class_="chart", hidden=True),
            tag("details", tag("summary", "The points as a table"), sections.points_table(points)),
            tag("script", embedded_json(points), type="application/json", id="points-data"),
        ]
    )


APPENDICES = "Appendices: every point, cost, cell, figure and record."
TRADE_OFFS = (
    "Each point is a model on a data set: what it costs against how good it is. The dashed line is the "
    "Pareto front of what is shown: the points that no other one beats. Costs taken on different inputs or "
    "machines are not to be compared, so one is shown at a time. Hollow marks are figures as published, "
    "filled ones have their cost measured by segmeter; stars are your own."
)
# As :func:`harness.tokens.run.demo_record` does it.
KEEP_LIGHT = ("layers",)
TOKENS_COMMAND = "segmeter tokens --short-side 448"
AUDIT = (
    "Every GFLOPs figure of the PRO-SCALE paper's tables, measured again: at the stated size, else at the "
    "padded size of a real image at which it is met, else it counts as not reproduced."
)


def _more(section: str, text: str) -> Html:
    """A line that leads to a section of the appendices."""
    return tag("p", text, ": ", tag("a", ABOUT_SECTIONS[section], href=f"#{section}"), ".", class_="note")


def _gallery(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]], name: str) -> Html:
    """One figure, or nothing where it could not be drawn."""
    return join(_figures(report, {name: drawings[name]}) if name in drawings else [])


def looks_css(points: Sequence[Mapping[str, Any]]) -> str:
    """Each system's colour, as the figures have it, and the dark ground's colours of the drawings."""
    looks = {point["colour"]: look_of(point["encoder"], point["source"] == "own") for point in points}
    light = "".join(f".{name}{{--c:{look.light}}}" for name, look in looks.items())
    dark = "".join(f"{{root}} .{name}{{--c:{look.dark}}}" for name, look in looks.items())
    dark += "{root}{" + "".join(f"--d-{k[1:].lower()}:{v};" for k, v in DARK.items()) + "}"
    system = dark.replace("{root}", ':root:not([data-theme="light"])')
    chosen = dark.replace("{root}", ':root[data-theme="dark"]')
    return f"{light}@media screen{{@media (prefers-color-scheme: dark){{{system}}}{chosen}}}\n"


def _figures(report: Mapping[str, Any], drawings: Mapping[str, tuple[str, str]]) -> list[Html]:
    cards = []
    for name, (drawn, caption) in drawings.items():
        is_picture = drawn.startswith("data:")
        label = f"{name}: {caption}"
        drawing = (
            picture(drawn, label)
            if is_picture
            else inline_svg(drawn, f"drawing-{name}", label, name not in KEEP_LIGHT)
        )
        # Photos and heat maps keep their colours, and so a light ground.
        kept = "sheet light" if is_picture or name in KEEP_LIGHT else "sheet"
        sheet = tag("div", drawing, class_=kept, tabindex="0", role="group", aria_label=f"Figure: {name}")
        link = tag("a", "these records", href=f"#{_data_of(name)}")
        origin = tag("span", "Drawn from ", link, " by ", tag("code", figure_command(name, report)), ".")
        wide = is_picture or sections.drawing_width(drawn) > ONE_COLUMN_POINTS
        cards.append(
            tag(
                "figure",
                sheet,
                tag("figcaption", tag("strong", f"{figure_title(name)}. "), origin),
                id=f"figure-{name}",
                class_="wide" if wide else None,
            )
        )
    return cards


def _shown(tokens: Mapping[str, Any] | None) -> dict[str, Any]:
    """The token record without its examples' packed pictures, which report.json holds."""
    return {name: value for name, value in (tokens or {}).items() if name != "examples"}


def figure_command(name: str, report: Mapping[str, Any]) -> str:
    """The command line that draws a figure of the report."""
    backbone = report["backbone"]
    if name in TOKEN_FIGURES:
        return TOKENS_COMMAND
    if name in REPORT_PARETO:
        x, y, dataset = REPORT_PARETO[name]
        axes = f"--x {x.replace('_', '-').removesuffix('-ms')} --y {y}"
        return f"segmeter plot pareto {axes} --dataset {dataset} --backbone {backbone}"
    return f"segmeter plot {name}" + ("" if name in WITHOUT_BACKBONE else f" --backbone {backbone}")


def figure_title(name: str) -> str:
    """What a figure shows, in words."""
    if name in REPORT_PARETO:
        x, y, dataset = REPORT_PARETO[name]
        cost, quality = sections.FIGURE_TITLES[x], sections.FIGURE_TITLES[y]
        return f"{cost[0].upper()}{cost[1:]} against {quality} on {DATASET_TITLES[dataset]}, with the front"
    return TOKEN_FIGURES[name] if name in TOKEN_FIGURES else KINDS[name]


def _data_of(name: str) -> str:
    if name in TOKEN_FIGURES:
        return "data-tokens"
    own = {"resolution", "layers", "lpe", "not-counted", "realised"}
    if name == "breakdown":
        return "records"
    return f"data-{name.replace('-', '_')}" if name in own else "points"


def _subtitle(report: Mapping[str, Any]) -> str:
    return f"Measured by segmeter on {report['made']}, backbone {report['backbone']}."

"""Building blocks of the HTML report: escaped markup, tables, embedded data and drawings."""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segmeter.plain import plain
from segmeter.reports.plots.style import DARK
from segmeter.reports.units import giga, percent


class Html(str):
    """Markup that is safe as it stands; :func:`tag` escapes every other string."""

    __slots__ = ()


@dataclass(frozen=True)
class Number:
    """A table cell that shows text and sorts by value; None sorts last."""

    text: str
    value: float | None


Cell = str | Number
# Columns of sentences: they keep a width at which those can be read.
LONG = ("note", "source")


def tag(name: str, *children: str, **attributes: str | bool | None) -> Html:
    """One element. Children that are not :class:`Html` are escaped, and so are all attribute values.

    Attribute names: a trailing underscore is dropped, others become dashes; None and False leave it out.

    >>> tag("p", "a < b", class_="note", aria_label='"x"')
    '<p class="note" aria-label="&quot;x&quot;">a &lt; b</p>'
    """
    parts = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {attribute}")
        elif value is not None and value is not False:
            parts.append(f' {attribute}="{escape(value)}"')
    inner = "".join(child if isinstance(child, Html) else _text(child) for child in children)
    return Html(f"<{name}{''.join(parts)}>{inner}</{name}>")


def join(parts: Sequence[Html]) -> Html:
    """Markup after markup."""
    return Html("\n".join(parts))


def escape(text: str) -> str:
    """Text for an element or a quoted attribute; what does not print, but for line ends, is escaped."""
    return html.escape("\n".join(map(plain, text.split("\n"))))


def _text(text: str) -> str:
    """As :func:`escape`, for what stands between tags: quotes end nothing there, and JSON is full of them."""
    return html.escape("\n".join(map(plain, text.split("\n"))), quote=False)


def embedded_json(content: Any) -> Html:
    r"""JSON for a ``<script type="application/json">``: nothing in it can end the element or start a comment.

    >>> embedded_json({"label": "</script><!--"})
    '{"label":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    name: str = "",
    filters: Sequence[str] = (),
    keys: Sequence[str] = (),
    stacked: bool = True,
) -> Html:
    """A table whose columns the page's script makes sortable, inside a region that scrolls on its own.

    Args:
        caption: what the table shows; also the name of the scrolling region.
        header: column titles; the first column names the row.
        rows: cells; :class:`Number` cells are right-aligned and sort by value.
        name: id of the table.
        filters: titles of the columns that get a drop-down to filter by.
        keys: one ``data-key`` for each row, for scripts that look rows up.
        stacked: whether a row becomes a block of lines, each with its title, on a narrow screen; every cell
            then holds its title.
    """
    numeric = [bool(rows) and any(isinstance(row[i], Number) for row in rows) for i in range(len(header))]
    head = [
        tag("th", title, scope="col", class_="number" if is_number else "long" if title in LONG else None)
        for title, is_number in zip(header, numeric, strict=True)
    ]
    body = []
    for index, row in enumerate(rows):
        cells = [
            _cell(cell, position == 0, header[position] if stacked else None)
            for position, cell in enumerate(row)
        ]
        body.append(tag("tr", *cells, data_key=keys[index] if keys else None))
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *head)),
        tag("tbody", join(body)),
        id=name or None,
        class_="sortable stacked" if stacked else "sortable",
        data_filters="|".join(filters) or None,
    )
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(cell: Cell, first: bool, label: str | None) -> Html:
    if isinstance(cell, Number):
        value = "" if cell.value is None else repr(cell.value)
        return tag("td", cell.text, class_="number", data_value=value, data_label=label)
    return tag("th", cell, scope="row", data_label=label) if first else tag("td", cell, data_label=label)


def picture(address: str, label: str) -> Html:
    """A picture at a ``data:`` address."""
    return Html(f'<img class="plot" src="{escape(address)}" alt="{escape(label)}">')


def inline_svg(svg: str, name: str, label: str, themed: bool = True) -> Html:
    """A drawing by matplotlib as part of the page.

    Its ids get a prefix, as every drawing counts its own from 1; its style sheet is dropped, as it would
    style the whole page (``report.css`` holds its one rule); its size in points gives way to the page's.

    Args:
        svg: the file's text, with an ``<svg>`` element that has a ``viewBox``.
        name: prefix for ids, unique in the page.
        label: what a screen reader says instead of the drawing.
        themed: whether its colours follow the page's, light or dark.

    Raises:
        ValueError: there is no ``<svg>`` in it.
    """
    found = re.search(r"<svg\b[^>]*>", svg)
    if not found:
        raise ValueError(f"figure {name!r} is not an SVG drawing")
    body = svg[found.end() : svg.rindex("</svg>")]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.S)

    def own(element: re.Match[str]) -> str:
        tag = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', element.group())
        tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", tag)
        tag = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', tag)
        # A hundredth of a point is a fiftieth of a pixel; more digits are 60 kB of a report.
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
        return re.sub("#[0-9A-Fa-f]{6}", _themed, tag) if themed else tag

    # Inside tags alone: names between them may hold anything, "<" and ">" as entities.
    body = _lighter(re.sub(r"<[^>]+>", own, body))
    view = re.search(r'viewBox="([^"]*)"', found.group())
    width = re.search(r'\bwidth="([\d.]+)pt"', found.group())
    return tag(
        "svg",
        Html(body.strip()),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=view.group(1) if view else None,
        role="img",
        aria_label=label,
        class_="plot themed" if themed else "plot",
        # Matplotlib's points at a paper's size; half as large again reads well on a screen.
        style=f"max-width:{float(width.group(1)) * 1.9:.0f}px" if width else None,
    )


def _lighter(body: str) -> str:
    """Without ids that nothing points at, empty groups and line ends between tags: a third of a drawing."""
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', body))
    body = re.sub(
        r"<[^>]+>",
        lambda tag: re.sub(
            r' id="([^"]*)"', lambda own: own.group() if own.group(1) in used else "", tag.group()
        ),
        body,
    )
    body = re.sub(r"<!--.*?-->", "", re.sub(r">\s*\n\s*<", "><", body), flags=re.S)
    before = None
    while before != body:
        before, body = body, re.sub(r"<g ?/>|<g></g>", "", body)
    return re.sub(r"\s*\n\s*", " ", body)


def _themed(found: re.Match[str]) -> str:
    """A colour that has another on a dark ground, as the page's variable with itself for the light one."""
    colour = found.group().lower()
    return f"var(--d-{colour[1:]},{colour})" if colour in _CHANGING else found.group()


_CHANGING = {colour.lower() for colour in DARK}


def figure_cell(value: float | None) -> Number:
    """GMACs, images a second or points; a dash where there is none."""
    return Number("-", None) if value is None else Number(giga(value), value)


def percent_cell(value: float | None) -> Number:
    """A change in percent, with its sign; a dash where there is none."""
    return Number("-", None) if value is None else Number(percent(value, signed=True), value)

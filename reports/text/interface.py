"""What ``print`` and a notebook show of a count or a timing made from Python: the commands' tables."""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, cast

from rich.table import Table

from segmeter.harness.records import Component, FlopsRecord
from segmeter.plain import plain
from segmeter.reports.text.fit import fitted
from segmeter.reports.text.flops import flops_tree
from segmeter.reports.text.screen import Screen
from segmeter.reports.units import amount, giga, millions, percent

DEPTH = 3
# As wide as a page where nothing says how wide: a pipe, a notebook.
PAGE = 100
Rows = Sequence[tuple[str, ...]]


def printed_text(*things: Any) -> str:
    """Tables and lines as a terminal shows them, without colours, at the terminal's width."""
    width = shutil.get_terminal_size((PAGE, 24)).columns
    screen = Screen(file=io.StringIO(), width=width, highlight=False, color_system=None)
    for thing in things:
        screen.print(fitted(thing, width) if isinstance(thing, Table) else thing, soft_wrap=True)
    text: str = cast(io.StringIO, screen.file).getvalue()
    return "\n".join(line.rstrip() for line in text.splitlines())


def page_text(caption: str, heads: Sequence[str], rows: Rows, notes: Sequence[str]) -> str:
    """A table as HTML: texts are escaped, the first column is text and the others are figures."""

    def cells(kind: str, row: Sequence[str]) -> Iterator[str]:
        for index, cell in enumerate(row):
            side = "right" if index else "left"
            yield f'<{kind} style="text-align: {side}">{escape(plain(cell))}</{kind}>'

    lines = ["".join(cells("td", row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    below = "<br>".join(escape(plain(note)) for note in notes)
    head = "".join(cells("th", heads))
    return (
        f'<table><caption style="text-align: left">{escape(plain(caption))}</caption>'
        f"<thead><tr>{head}</tr></thead>"
        # No colours: a notebook's own hold, light or dark. The notes' first words stand in a column.
        f'<tbody>{body}</tbody></table><p style="font-family: monospace; white-space: pre-wrap">{below}</p>'
    )


def nested(components: Mapping[str, int]) -> dict[str, Component]:
    """Dotted component -> MACs of its own, as a tree in GMACs; a node is the sum of what is in it.

    >>> nested({"body.0": 3 * 10**9, "body.1": 10**9})["body"]["gmacs"]
    4.0
    """
    tree: dict[str, Component] = {}
    for path, macs in components.items():
        below = tree
        for name in path.split("."):
            node = below.setdefault(name, {"gmacs": 0.0, "parts": {}})
            node["gmacs"] += macs / 1e9
            below = node["parts"]
    return tree


def count_text(title: str, components: Mapping[str, int], notes: Sequence[str]) -> str:
    """The table of ``segmeter flops`` and its notes."""
    record = {
        "title": title,
        "size": "",
        "unit": "GMACs",
        "total_gmacs": sum(components.values()) / 1e9,
        "components": nested(components),
    }
    return printed_text(flops_tree(cast(FlopsRecord, record), DEPTH), *notes)


def count_page(title: str, components: Mapping[str, int], notes: Sequence[str]) -> str:
    """The same as HTML, in the order of the components."""
    total = sum(components.values())
    rows = [
        (name or "(the model itself)", giga(macs / 1e9), percent(100 * macs / total) if total else "")
        for name, macs in components.items()
    ]
    rows.append(("total", giga(total / 1e9), percent(100.0)))
    return page_text(title, ("component", "GMACs", "share"), rows, notes)


def count_notes(
    flops: int, macs_range: tuple[int, int], params: int, written: int, not_counted: Mapping[str, str]
) -> list[str]:
    """What a reader must know beside the MACs."""
    lines = [
        "convention  macs: every multiply-accumulate, norms and resizing at fvcore's weights [GMACs]",
        f"FLOPs       {amount(flops, 'FLOPs')}, elementwise work included",
        f"parameters  {millions(params)}",
        f"activations {amount(written, 'bytes')} written by operators with multiply-accumulates",
    ]
    least, most = macs_range
    if least != most:
        between = f"{giga(least / 1e9)} to {giga(most / 1e9)} GMACs"
        lines.append(f"range       {between}: values choose what runs (torch.cond)")
    lines += [f"not counted {name}: {where}" for name, where in not_counted.items()]
    return lines if not_counted else [*lines, "not counted nothing that has multiply-accumulates"]


def profile_table(title: str, components: Mapping[str, float]) -> Table:
    """Milliseconds of each component."""
    table = Table(title=title, title_justify="left")
    table.add_column("component")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for row in profile_rows(components):
        table.add_row(*row)
    return table


def profile_rows(components: Mapping[str, float]) -> Rows:
    """Component, milliseconds and share of the call."""
    total = sum(components.values())
    return [
        (name, f"{ms:.4g}", percent(100 * ms / total) if total else "") for name, ms in components.items()
    ]


def profile_notes(
    latency: tuple[float, float, float], calls: int, params: int, peak: float | None, stable: bool
) -> list[str]:
    """Median with its interval, and memory."""
    median, low, high = latency
    lines = [
        f"median      {median:.4g} ms, {low:.4g} to {high:.4g} in 95 repeats of 100, {calls} calls",
        f"parameters  {amount(params, 'bytes')}",
    ]
    if peak is not None:
        lines.append(f"peak memory {amount(round(peak), 'bytes')} above the start of the call")
    return lines if stable else [*lines, "beware      the times had not settled when the warm-up ended"]

"""Cells as people print them: markup, decimal marks, unit letters, changes in brackets."""

import html
import re
from dataclasses import dataclass, replace

from segmeter.harness.audit.comparisons.table import Figure

PLAIN = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_TAG = re.compile(r"<[^<>]{1,500}>")
_LINK = re.compile(r"!?\[([^\[\]]{0,500})\]\([^()]{0,1000}\)")
_BOLD = re.compile(r"\*\*.+\*\*|__.+__|<(?:b|strong)\b|\\(?:textbf|mathbf|bm|bf\b|bfseries)", re.IGNORECASE)
# Commands whose braces hold no text; "{,}" is a comma without the space of a list.
_DROP = re.compile(
    r"\\(?:cite[a-z]*|ref|label|footnote(?:mark|text)?|[vh]space|rowcolor|cellcolor|colorbox|color|textcolor|fontsize"
    r"|scalebox|raisebox|rotatebox|resizebox\*?\{[^{}]*\})\*?(?:\[[^\]]*\])*\{[^{}]*\}"
)
_UNIT_ARGUMENT = re.compile(r"\\(?:SI|qty)(?:\[[^\]]*\])?(\{[^{}]*\})\{[^{}]*\}")
_WRAP = re.compile(r"\\[a-zA-Z]+\*?\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?")
_SIGNS = {
    r"\%": "%",
    r"\times": "x",
    r"\pm": "±",
    r"\&": "&",
    r"\_": "_",
    r"\#": "#",
    r"\downarrow": "↓",
    r"\uparrow": "↑",
    r"\Delta": "Δ",
    r"\ddagger": "‡",
    r"\dagger": "†",
    r"\ddag": "‡",
    r"\dag": "†",
    r"\ast": "*",
    r"\star": "*",
    r"\textsuperscript": "^",
    "{,}": ",",
    "$": "",
    "~": " ",
    r"\,": "",
    r"\!": "",
    r"\;": " ",
}
# Digits may stand in groups with thin or hard spaces between, as in 1 234.
_SPACES = "\u2009\u202f\u00a0'\u2019"
_THIN = re.compile(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))")
_FIGURE = re.compile(
    r"(?P<about>[~≈<>≤≥\u223c]?)\s*(?P<number>(?:[-+\u2212]|[↓↑]\s*)?\d[\d.,]*)\s*(?:_?±\s*[\d.,]+\s*%?)?\s*"
    r"(?P<unit>%|[kKMGTB]i?(?:B|FLOPs|MACs)?\b|ms\b|s\b|x\b|\u00d7|fps\b)?"
    r"\s*(?:[(\[]\s*(?:(?P<change>[-+\u2212↓↑]\s*\d[\d.,]*)\s*(?P<percent>%)?"
    r"|(?P<times>\d[\d.]*)\s*[x\u00d7]|±?\s*\d[\d.,]*)\s*[)\]]"
    r"|(?P<bare>[-+\u2212↓↑]\s*\d[\d.,]*)\s*(?P<bare_percent>%))?"
    # Footnotes: signs, or raised digits and letters.
    r"\s*(?:[†‡*§¶^\u00b9\u00b2\u00b3]|\^[0-9a-z](?:,[0-9a-z])*|[↓↑])*"
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_COMMA = re.compile(r"[-+]?\d+,\d+")
_MANY = re.compile(r"[-+]?\d{1,3}(?:\.\d{3})+,\d+")
EMPTY = ("", "-", "--", "---", "\u2013", "—", "n/a", "na", "n.a.", "none", "?", "nan", "/", "oom", "x")
# No table prints a larger figure in any unit.
BEYOND = 1e16
# A figure's sign -> how it is printed, if it is a change.
RATIOS = {"%": "percent", "x": "factor", "\u00d7": "factor"}
PREFIX = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Printed:
    """A number as printed, before its column's unit; the letters of its own unit, its decimal mark."""

    figure: Figure
    unit: str
    mark: str


def is_bold(text: str) -> bool:
    """Whether a cell's markup prints it in bold."""
    return bool(_BOLD.search(text))


def clean(text: str) -> str:
    r"""A cell's letters without Markdown's, LaTeX's and HTML's markup.

    >>> clean(r"\textbf{52.0}\cite{a}"), clean("<b>[M2F](x)</b>"), clean("**1.5**")
    ('52.0', 'M2F', '1.5')
    """
    if PLAIN.fullmatch(text) or (text.isalnum() and text.isascii()):
        return text
    if "<" in text:
        text = _TAG.sub(" ", re.sub(r"<(sub|sup)>.*?</\1>", "", text, flags=re.IGNORECASE))
    if "&" in text:
        text = html.unescape(text)
    if "](" in text:
        text = _LINK.sub(r"\1", text)
    if "\\" in text or "$" in text or "{" in text:
        for sign, letter in _SIGNS.items():
            text = text.replace(sign, letter)
        text = _DROP.sub("", _UNIT_ARGUMENT.sub(r"\1", text))
        text = re.sub(r"[_^]\{\s*(±[^{}]*)\}", r" \1", text)
        for _ in range(5):
            text = _WRAP.sub(r"\1", text)
        text = _COMMAND.sub(" ", text).replace("{", "").replace("}", "")
    for mark in ("**", "__", "`"):
        text = text.replace(mark, "")
    return " ".join(text.split()).strip("* ")


def read_number(text: str, comma: bool | None = None) -> tuple[float, float, str] | None:
    """A number, half its last digit, and its decimal mark: ".", "," or "" for none.

    Args:
        text: digits with separators.
        comma: whether its column has decimal commas; None where that is not known.

    >>> read_number("1,234.5"), read_number("12,5"), read_number("1,234"), read_number("1,234", True)
    ((1234.5, 0.05, '.'), (12.5, 0.05, ','), (1234.0, 0.5, ''), (1.234, 0.0005, ','))
    """
    text = text.replace("\u2212", "-").replace("↓", "-").replace("↑", "").replace(" ", "").rstrip(".,")
    mark = "." if "." in text else ""
    if _MANY.fullmatch(text):
        text, mark = text.replace(".", "").replace(",", "."), ","
    elif _GROUPED.fullmatch(text) and not (comma and "." not in text and text.count(",") == 1):
        text = text.replace(",", "")
    elif _COMMA.fullmatch(text):
        text, mark = text.replace(",", "."), ","
    try:
        value = float(text)
    except ValueError:
        return None
    if not abs(value) < BEYOND:
        return None
    digits = len(text.partition(".")[2])
    return value, 0.5 * 10.0**-digits, mark


def read_figure(text: str, comma: bool | None = None) -> Printed | None:
    """A cell, markup taken away, as a figure; None where it is none: words, a formula, several numbers.

    >>> read_figure("55.14 (-12.3%)").figure.change
    -12.3
    """
    if PLAIN.fullmatch(text):
        value = float(text)
        half = 0.5 * 10.0 ** -len(text.partition(".")[2])
        return Printed(Figure(value, value - half, value + half), "", "." if "." in text else "")
    match = _FIGURE.fullmatch(_THIN.sub("", text))
    number = read_number(match["number"], comma) if match else None
    if match is None or number is None:
        return None
    value, half, mark = number
    if match["about"]:
        half = max(half, 0.05 * abs(value))
    figure = Figure(value, value - half, value + half)
    printed = match["change"] or match["bare"] or match["times"]
    change = read_number(printed, comma) if printed else None
    if change:
        percent = match["percent"] or match["bare_percent"]
        ratio = "percent" if percent else "factor" if match["times"] else "absolute"
        figure = replace(figure, change=change[0], change_step=change[1], ratio=ratio)
    elif match["unit"] in RATIOS:
        figure = replace(figure, ratio=RATIOS[match["unit"]])
    return Printed(figure, match["unit"] or "", mark)


def at_least(figure: Figure, half: float) -> Figure:
    """A figure that stands for a range of at least this half width."""
    if figure.high - figure.value >= half:
        return figure
    return replace(figure, low=figure.value - half, high=figure.value + half)


def scaled(figure: Figure, factor: float, marked: bool) -> Figure:
    """A figure in another unit."""
    if factor == 1 and not marked:
        return figure
    change = figure.change
    step = figure.change_step
    if change is not None and figure.ratio == "absolute":
        change, step = change * factor, step * factor
    return replace(
        figure,
        value=figure.value * factor,
        low=figure.low * factor,
        high=figure.high * factor,
        change=change,
        change_step=step,
        marked=marked,
    )

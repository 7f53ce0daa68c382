r"""Text out of files, made fit for where it is written: nothing in it acts there. Needs nothing.

A name in a file is data: it may hold a terminal's escape codes, a line that a job's log takes for a
command, a formula for a spreadsheet, markup. :func:`plain` is the one function for such text; the others say
it to one kind of reader each and begin with it. Numbers and this project's own words pass unchanged.
"""

import csv
import io
import json
import re
import reprlib
import unicodedata
from collections.abc import Iterable
from typing import Any

# Letters of a value out of a file that a message repeats.
MAX_SHOWN = 80
# Letters of an error line: names out of a file may be of any length.
MAX_LINE = 2000
# What a job's log acts on. GitHub's runner looks at the start of a line (and trims it), for "##[" anywhere;
# a table may break a line at any place, so the words of its commands are broken wherever they are.
_LOG_COMMAND = re.compile(
    r"(?:^|(?<=\s)):{2,}(?=\S)"
    r"|:{2,}(?=(?:error|warning|notice|debug|group|endgroup|echo|set-output|set-env|add-path|add-mask"
    r"|add-matcher|remove-matcher|save-state|stop-commands)(?:::|\s))"
    r"|##(?=\w*\[)",
    re.IGNORECASE,
)
# Letters that are no letters to a terminal: C0 and C1 controls, and those that turn or split a line.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE = re.compile(r"weights_only|can still be loaded|trust the source|add_safe_globals", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?(?: ?%)?")
_FORMULA = tuple("=+-@\t\r\n")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def plain(text: object) -> str:
    r"""Any text as one line of letters: what does not print stands as its escape, a log's command is broken.

    >>> plain("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    >>> plain("::error::x"), plain("aten::mm")
    (': :error::x', 'aten::mm')
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(map(_printed, line))
    return _LOG_COMMAND.sub(lambda found: " ".join(found[0]), line) if "::" in line or "##" in line else line


def one_line(error: BaseException) -> str:
    """An error's text on one line, without what a terminal acts on; its kind where it has none.

    torch tells how to load a file all the same, which is how its code would run: that is not handed on.
    """
    sentences = re.split(r"(?<=[.!?]) +", " ".join(str(error).split()))
    said = " ".join(sentence for sentence in sentences if not _UNSAFE.search(sentence))
    text = plain(said) or type(error).__name__
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}... ({len(text) - MAX_LINE:,} letters more)"


def shown(value: object, most: int = MAX_SHOWN) -> str:
    """A value out of a file as a message repeats it: in quotes if it is text, and short whatever it is.

    >>> shown("m2f"), shown([0] * 10**6, 30)
    ("'m2f'", '[0, 0, 0, 0, 0, 0, ...]')
    """
    try:
        # Written out in full, a list in a list in a list takes for ever, or all of the stack.
        text = _SHORT.repr(value)
    except ValueError:
        # Python writes no integer of more than 4300 digits.
        text = f"a {type(value).__name__} of many digits"
    return plain(text if len(text) <= most else f"{text[: most - 3]}...")


def markdown(text: object) -> str:
    r"""Text inside a paragraph, a list or a table of Markdown, as GitHub reads it.

    >>> markdown("<b>a|b</b> *c* [d](e) layers.*.ffn pixel_embedding")
    '&lt;b&gt;a\\|b&lt;/b&gt; \\*c\\* \\[d\\](e) layers.\\*.ffn pixel_embedding'
    """
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~])", r"\\\1", line)
    # Inside a word an underscore is one; before a name an @ calls somebody.
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\_", line)
    line = re.sub(r"(?<![\w.])@(?=\w)", "&#64;", line)
    return re.sub(r"^(\s*\d*)([#+=.)-])(?=\s)", r"\1\\\2", line)


def markdown_code(text: object) -> str:
    """Text as Markdown's inline code, whose fence is longer than any in it.

    >>> markdown_code("m2f@r50"), markdown_code("a`b")
    ('`m2f@r50`', '`` a`b ``')
    """
    line = plain(text) or " "
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"{fence}{line}{fence}"


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would take for a formula is marked as text.

    >>> csv_cell("=1+1"), csv_cell("-3.5"), csv_cell(-3.5), csv_cell("m2f")
    ("'=1+1", '-3.5', -3.5, 'm2f')
    """
    if not isinstance(value, str):
        return value
    line = plain(value)
    if line.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(line.strip()) and line.strip() != "-":
        return f"'{line}"
    return line


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, every cell through :func:`csv_cell`; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(["" if cell is None else csv_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def latex(text: object) -> str:
    r"""Text as LaTeX prints it.

    >>> latex("50 % of p_1 & {x}")
    '50 \\% of p\\_1 \\& \\{x\\}'
    """
    return "".join(_LATEX.get(character, character) for character in plain(text))


def json_text(content: Any, indent: int | None = 2) -> str:
    r"""JSON of exactly this content, in which what a terminal or a log would act on stands as an escape.

    >>> json_text("a\x9b2J ##[error]", None)
    '"a\\u009b2J \\u0023#[error]"'

    Raises:
        ValueError: it holds a number that is infinite or none.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return re.sub(r"##(?=\w*\[)", r"\\u0023#", text)


def _printed(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN

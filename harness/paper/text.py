r"""LaTeX as far as numbers are looked for in it: files that include each other, comments, literals, macros.

Not a TeX: what stands in arguments that no reader sees (labels, citations, files, lengths, column types) is
passed over, comments and verbatim text too. A comment ``% segmeter: ignore`` passes over its line.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segmeter.files import inside, read_bytes

MAX_BYTES, MAX_FILES = 1 << 24, 500
# Letters of an argument that is a name or a length.
LONGEST_ARGUMENT = 4000
IGNORE = re.compile(r"%\s*segmeter:\s*ignore\b")
# Commands whose arguments are names, not text: how many in braces go with them.
SILENT = {
    **dict.fromkeys(("ref", "eqref", "pageref", "autoref", "cref", "Cref", "nameref", "label"), 1),
    **dict.fromkeys(
        ("cite", "citep", "citet", "citealp", "citeauthor", "citeyear", "parencite", "nocite"), 1
    ),
    **dict.fromkeys(("includegraphics", "input", "include", "bibliography", "bibliographystyle"), 1),
    **dict.fromkeys(("usepackage", "documentclass", "url", "hspace", "vspace", "cmidrule", "cline"), 1),
    **dict.fromkeys(("setlength", "addtolength", "definecolor"), 2),
    **dict.fromkeys(("setcounter", "multirow", "fontsize"), 2),
    "rule": 2,
    "multicolumn": 2,
    "href": 1,
    "resizebox": 2,
    "scalebox": 1,
    "color": 1,
    "textcolor": 1,
}
# Environments whose begin is followed by arguments of lengths and columns.
SHAPED = {
    "tabular": 1,
    "tabular*": 2,
    "tabularx": 2,
    "minipage": 1,
    "array": 1,
    "wrapfigure": 2,
    "multicols": 1,
}
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
# Verbatim within a line, and what is switched off.
_UNSEEN = re.compile(
    r"\\(?:verb|lstinline)\*?([^\w\s*{])(?:(?!\1)[^\n]){0,1000}\1|\\iffalse(?![A-Za-z]).*?(?:\\fi(?![A-Za-z])|\Z)",
    re.S,
)
_VERBATIM = re.compile(r"\\begin\{(verbatim\*?|lstlisting|comment|minted)\}")
_INPUT = re.compile(
    r"\\(?:input|include|subfile)\s*\{(?P<file>[^{}\n]{1,500})\}|\\input[ \t]+(?P<bare>[^\s{}\\]{1,500})"
    r"|\\(?:sub)?import\*?\s*\{(?P<folder>[^{}\n]{0,500})\}\s*\{(?P<in_it>[^{}\n]{1,500})\}"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_SPACES = re.compile(r"[ \t\n]{0,200}")
# A bracket, or anything behind a backslash, which is none.
_BRACKET = re.compile(r"\\.|[{}\[\]()]", re.S)
_LENGTH = re.compile(
    r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)\s*(?:(?:pt|em|ex|cm|mm|in|bp|sp|dd|pc|fill?l?)\b|\\(?:text|line|column|paper)"
    r"(?:width|height)|\\(?:base|col|h)\w*|\\(?:tabcolsep|hsize|vsize))"
)
# Digits, perhaps in groups of three, perhaps with decimals; not inside a name, a version or a size.
# A unit may stand against its digits, as in 12ms or 135-GMAC.
_GLUED = r"(?:[GM]|[GT](?:MAC|FLOP)s?|ms|fps|FPS|[MG]i?B|J)\b"
_NUMBER = re.compile(
    r"(?<![\w.\\@^])(?<![A-Za-z]-)(?P<whole>\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+|\d+)(?P<rest>\.\d+)?"
    rf"(?=-?{_GLUED}|(?![\w@]|\.\d|-[A-Za-z\d]))"
)
# What may stand between a figure and its unit, and the unit.
_AFTER = re.compile(
    r"(?:[\s~]|\\[,;:! ]|\\thinspace|\{\}|\$|-(?=[A-Z])|\}\{?|\\text(?:rm)?\{|\\mathrm\{){0,20}"
    r"(?P<unit>\\?%|per\s+cent\b|(?:\\[a-z]{1,12}){1,4}|[A-Za-z]+(?:/[a-z]+)?)?"
)


@dataclass(frozen=True)
class Source:
    """A file: its ``text`` with what is passed over as spaces, so that places are those of the file.

    Attributes:
        ignored: lines, from 1, that the author has taken out.
    """

    path: Path
    text: str
    ignored: frozenset[int]

    @cached_property
    def ends(self) -> list[int]:
        """Where the lines end."""
        return [found.start() for found in re.finditer("\n", self.text)]

    def line(self, place: int) -> int:
        """The line of a place in the text, from 1."""
        return bisect_left(self.ends, place) + 1


@dataclass(frozen=True)
class Literal:
    """A number typed into the text.

    Attributes:
        value: without its sign.
        digits: how many stand after its point.
        unit: the word or sign that follows; "" if none does.
    """

    source: Source
    line: int
    text: str
    value: float
    digits: int
    unit: str

    @property
    def figures(self) -> int:
        """Significant figures as they are written."""
        return len(re.sub(r"\D", "", self.text).lstrip("0"))


def read_sources(main: Path, made: frozenset[Path]) -> list[Source]:
    r"""The main file and all that it includes by ``\input`` and ``\include``, once each.

    Args:
        main: the main file.
        made: files that this program writes, which are checked otherwise.

    Raises:
        ValueError: the main file cannot be read, or an included one leads out of its folder.
    """
    found: list[Source] = []
    seen: set[Path] = set()
    waiting = [main]
    while waiting:
        path = waiting.pop(0)
        if path.resolve() in seen or path.resolve() in made:
            continue
        seen.add(path.resolve())
        if len(seen) > MAX_FILES:
            raise ValueError(f"{main} includes more than {MAX_FILES} files")
        text = _read(path)
        found.append(Source(path, _blanked(text), _ignored(text)))
        for named in _INPUT.finditer(_COMMENT.sub(r"\1", text)):
            name = (
                (named["file"] or named["bare"] or f"{named['folder']}/{named['in_it']}").strip().lstrip("/")
            )
            file = inside(main.parent, name if name.endswith(".tex") else f"{name}.tex")
            # A missing file is TeX's to name: it may be made by something else.
            if file.is_file():
                waiting.append(file)
    return found


def _read(path: Path) -> str:
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None


def _ignored(text: str) -> frozenset[int]:
    return frozenset(number for number, line in enumerate(text.split("\n"), start=1) if IGNORE.search(line))


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _blanked(text: str) -> str:
    """The text with everything that no reader sees as spaces."""
    text = _without_verbatim(text)
    end = text.find(r"\end{document}")
    text = text if end < 0 else text[:end] + _blank(text[end:])
    text = _COMMENT.sub(lambda found: found[1] + _blank(found[0][len(found[1]) :]), text)
    text = _UNSEEN.sub(lambda found: _blank(found[0]), text)
    letters = list(text)
    for start, end in _silent(text):
        letters[start:end] = _blank(text[start:end])
    text = "".join(letters)
    return _LENGTH.sub(lambda found: _blank(found[0]), text)


def _without_verbatim(text: str) -> str:
    parts, place = [], 0
    while found := _VERBATIM.search(text, place):
        end = text.find(f"\\end{{{found[1]}}}", found.end())
        end = len(text) if end < 0 else end
        parts += [text[place : found.start()], _blank(text[found.start() : end])]
        place = end
    return "".join([*parts, text[place:]])


def _silent(text: str) -> Iterator[tuple[int, int]]:
    """Where arguments stand that are names or lengths."""
    closed = _closed(text)
    for command in _COMMAND.finditer(text):
        name, end = command[1], command.end()
        braces = SILENT.get(name, 0)
        if name == "begin":
            named = re.compile(r"\{([^{}]*)\}").match(text, end)
            if named is None:
                continue
            end, braces = named.end(), SHAPED.get(named[1], 0)
            # A float's place.
            end = _argument(text, end, "[", closed) or end
        elif not braces:
            continue
        start = end
        for _ in range(braces):
            for opening in "[({":
                end = _argument(text, end, opening, closed) or end
        yield start, end


def _argument(text: str, place: int, opening: str, closed: Mapping[int, int]) -> int:
    """The end of an argument that starts here, after spaces; 0 where none does."""
    place += len(_SPACES.match(text, place)[0])  # type: ignore[index]
    if text[place : place + 1] != opening:
        return 0
    end = closed.get(place, 0)
    return end if end - place < LONGEST_ARGUMENT else 0


def _closed(text: str) -> dict[int, int]:
    """Where each bracket opens -> behind where it closes; each kind by itself, as intervals mix them."""
    found: dict[int, int] = {}
    opened: dict[str, list[int]] = {"}": [], "]": [], ")": []}
    kinds = {"{": "}", "[": "]", "(": ")"}
    for bracket in _BRACKET.finditer(text):
        letter, at = bracket[0][-1], bracket.end() - 1
        if len(bracket[0]) > 1:
            continue
        if letter in kinds:
            opened[kinds[letter]].append(at)
        elif opened[letter]:
            found[opened[letter].pop()] = at + 1
    return found


def literals(source: Source) -> Iterator[Literal]:
    """The numbers that are typed into a file, with the word or sign after each."""
    for found in _NUMBER.finditer(source.text):
        line = source.line(found.start())
        if line in source.ignored:
            continue
        rest = found["rest"] or ""
        after = _AFTER.match(source.text, found.end())
        # siunitx spells units out: \milli\second.
        unit = re.sub(r"\\|\s", "", after["unit"] or "") if after else ""
        whole = re.sub(r"\D", "", found["whole"])
        if len(whole) > 30:
            continue
        yield Literal(source, line, found[0], float(whole + rest), max(0, len(rest) - 1), unit)


def used_macros(source: Source, prefix: str) -> Iterator[tuple[int, str]]:
    """The macros of a prefix that a file uses, each with its line."""
    for found in re.finditer(rf"\\({re.escape(prefix)}[A-Z][A-Za-z]*)", source.text):
        yield source.line(found.start()), found[1]


def defined_macros(text: str) -> dict[str, tuple[int, str]]:
    r"""The macros that a file of ours defines by ``\newcommand``: name -> line and content."""
    return {
        found[1]: (text.count("\n", 0, found.start()) + 1, found[2])
        for found in re.finditer(
            r"^\\newcommand\{\\([A-Za-z]+)\}\{(?:\\ensuremath\{)?([^{}\n]*)\}", text, re.M
        )
    }

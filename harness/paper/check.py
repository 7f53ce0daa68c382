"""Hold a paper's text to its numbers: what is out of date, and what was typed by hand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segmeter.files import read_bytes
from segmeter.harness.paper.text import (
    MAX_BYTES,
    Literal,
    Source,
    defined_macros,
    literals,
    read_sources,
    used_macros,
)
from segmeter.words import nearest

CHECK_SCHEMA = "segmeter.paper_check/1"
RULES = {
    "out of date": "a written file no longer holds what its records and counts give",
    "not defined": "a macro of ours that no number stands behind",
    "typed by hand": "a figure in the text that a macro holds",
    "differs": "a figure in the text that is near a macro's, in its unit, and not its value",
}
# Words that follow a figure in a unit.
WORDS = {
    "GMACs": ("gmac", "gmacs", "gflop", "gflops", "g", "gigamac", "gigamacs", "gigaflop", "gigaflops"),
    "GFLOPs": ("gflop", "gflops", "g", "gigaflop", "gigaflops"),
    "ms": ("ms", "msec", "millisecond", "milliseconds"),
    "%": ("%", "percent", "percentage"),
    "M": ("m", "million"),
    "images/s": ("fps", "images/s"),
    "MiB": ("mib", "mb", "mebibyte", "megabyte"),
    "J": ("j", "joule", "joules"),
    "times": ("times",),
}
# Fewer significant figures are no evidence without the unit; a figure within this share is near.
FIGURES, NEAR = 3, 0.02


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: where, by which rule, and in words."""

    file: str
    line: int
    rule: str
    text: str


def check_paper(
    main: Path, numbers: Sequence[Mapping[str, Any]], files: Mapping[Path, str], macro_file: Path, prefix: str
) -> dict[str, Any]:
    """Check a paper.

    Args:
        main: its main file.
        numbers: of :func:`harness.paper.values.paper_values`.
        files: what every written text file must hold now.
        macro_file: the one of them with the macros.
        prefix: of our macros.

    Returns:
        The record of the check, ready for JSON.

    Raises:
        ValueError: a file cannot be read.
    """
    made = frozenset(path.resolve() for path in files)
    sources = read_sources(main, made)
    findings: list[Finding] = []
    before: dict[str, tuple[int, str]] = {}
    for path, text in files.items():
        if not path.is_file():
            findings.append(Finding(str(path), 1, "out of date", "is not written yet"))
            continue
        written = read_bytes(path, MAX_BYTES).decode("utf-8", "replace")
        if path == macro_file:
            before = defined_macros(written)
            findings += _macros(path, before, numbers)
        elif written != text:
            line = _first_difference(written, text)
            findings.append(
                Finding(str(path), line, "out of date", "is not what its models and records give")
            )
    known = {one["macro"] for one in numbers}
    seen = 0
    for source in sources:
        for line, name in used_macros(source, prefix):
            if name not in known:
                told = f"\\{name} is no number of the file{nearest(name, known)}"
                findings.append(Finding(str(source.path), line, "not defined", told))
        for literal in literals(source):
            seen += 1
            findings += _literal(literal, numbers, before)
    return {
        "schema": CHECK_SCHEMA,
        "rules": RULES,
        "files": [str(source.path) for source in sources],
        "literals": seen,
        "numbers": len(numbers),
        "findings": [asdict(one) for one in findings],
    }


def _macros(
    path: Path, before: Mapping[str, tuple[int, str]], numbers: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    for one in numbers:
        line, held = before.get(one["macro"], (1, ""))
        if held != one["text"]:
            told = f"\\{one['macro']} is {held or 'missing'}, and now {one['text']} ({one['source']})"
            yield Finding(str(path), line, "out of date", told)


def _first_difference(written: str, text: str) -> int:
    pairs = zip(written.split("\n"), text.split("\n"), strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    return 1 + (same if same is not None else min(written.count("\n"), text.count("\n")))


def _literal(
    literal: Literal, numbers: Sequence[Mapping[str, Any]], before: Mapping[str, tuple[int, str]]
) -> Iterator[Finding]:
    """At most one finding: what the figure is, else what it was, else what it is near."""
    source: Source = literal.source
    told = [one for one in numbers if literal.figures >= FIGURES or _in_unit(literal, one)]

    def finding(rule: str, text: str) -> Finding:
        return Finding(
            str(source.path), literal.line, rule, f"{literal.text} {literal.unit}".strip() + f" {text}"
        )

    for one in told:
        if rounds_to(one["value"], literal) and not _in_another(literal, one):
            yield finding("typed by hand", f"is \\{one['macro']}, which is {one['text']}: write the macro")
            return
    for one in told:
        held = before.get(one["macro"], (0, ""))[1]
        if held and held != one["text"] and _is_number(held) and abs(float(held)) == literal.value:
            yield finding("differs", f"was \\{one['macro']}, which is now {one['text']}: write the macro")
            return
    for one in numbers:
        size = abs(one["value"])
        if size and _in_unit(literal, one) and abs(literal.value - size) <= NEAR * size:
            yield finding("differs", f"is near \\{one['macro']}, which is {one['text']}: write the macro")
            return


def rounds_to(value: float, literal: Literal) -> bool:
    """Whether a value, written to as many digits as the literal has, is the literal; signs are the text's."""
    return abs(float(f"{abs(value):.{literal.digits}f}") - literal.value) < 0.1 * 10**-literal.digits


def _in_unit(literal: Literal, one: Mapping[str, Any]) -> bool:
    return literal.unit.lower() in WORDS.get(one["unit"], (one["unit"].lower() or None,))


def _in_another(literal: Literal, one: Mapping[str, Any]) -> bool:
    """Whether the word after a figure is the unit of another kind: 55.1 ms is no 55.1 GMACs."""
    word = literal.unit.lower()
    return not _in_unit(literal, one) and any(word in words for words in WORDS.values())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Findings on references: rows that cite what stands in the same paper for another system."""

import re
from collections.abc import Sequence

from segmeter.harness.audit.findings.sentences import Finding, finding, listed, place, system
from segmeter.harness.published import PRO_SCALE, PublishedRow

# How the data notes a row's citation: whom it cites, and whose reference that is.
_CITES = re.compile(r"cites (?P<cited>[^;()\"]+?) \((?P<whose>[^()]+?)'s reference\)")


def citation_findings(rows: Sequence[PublishedRow]) -> list[Finding]:
    """Rows of which the citation is another system's, and pairs of rows that cite each other's."""
    found: dict[tuple[int, int], tuple[PublishedRow, str, str]] = {}
    for row in rows:
        noted = _CITES.search(row.note) if row.paper == PRO_SCALE else None
        if noted and _plain(noted["whose"]) != _plain(row.model):
            found.setdefault((row.table, row.row), (row, noted["cited"], noted["whose"]))
    sentences = []
    swapped: set[tuple[int, int]] = set()
    for key, (row, cited, whose) in found.items():
        other = next(
            (
                at
                for at, (one, _, its) in found.items()
                if at[0] == key[0] and _plain(one.model) == _plain(whose) and _plain(its) == _plain(row.model)
            ),
            None,
        )
        if key in swapped:
            continue
        if other:
            swapped |= {key, other}
            second, its_cited, _ = found[other]
            sentences.append(
                f"{place(row)} and {place(second)}: {system(row)} cites {cited}, {system(second)} cites "
                f"{its_cited}; each is the other's reference."
            )
        else:
            sentences.append(f"{place(row)}: {system(row)} cites {cited}, which is {whose}'s reference.")
    tables = [table for table, _ in found]
    title = f"Citations in {listed([f'Table {table}' for table in sorted(set(tables))])} are other systems'"
    return finding("citations", title, sentences, tables)


def _plain(name: str) -> str:
    """A system's name as the data and a reference list both have it."""
    return re.sub(r"[^a-z0-9]", "", name.lower())

"""Claims of the papers that cut tokens, beside what is counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def reduction_audit_tables(record: Mapping[str, Any]) -> list[Table]:
    """A table for each that the paper prints, with a row for each figure."""
    titles = dict.fromkeys(claim["table"] for claim in record["claims"])
    return [_table(title, [c for c in record["claims"] if c["table"] == title]) for title in titles]


def _table(title: str, claims: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for name, justify in (("model", "left"), ("what", "left"), ("printed", "right"), ("counted", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("verdict")
    table.add_column("note", max_width=70)
    for claim in claims:
        measured = claim["measured"]
        table.add_row(
            claim["model"],
            claim["what"].replace("_", " "),
            claim["printed"],
            "" if measured is None else f"{measured:.2f}",
            claim["verdict"],
            claim["note"],
        )
    return table


def reduction_audit_notes(record: Mapping[str, Any]) -> list[str]:
    """What the verdicts mean."""
    used = dict.fromkeys(claim["verdict"] for claim in record["claims"])
    return [f"{verdict}: {record['verdicts'][verdict]}" for verdict in used]

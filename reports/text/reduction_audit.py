"""Claims of the papers that cut tokens, beside what is counted."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def reduction_audit_table(record: Mapping[str, Any]) -> Table:
    """One row for each printed figure."""
    table = Table(title=f"claims of {record['paper']}", title_justify="left")
    for name, justify in (("model", "left"), ("what", "left"), ("printed", "right"), ("counted", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("verdict")
    table.add_column("note", max_width=70)
    for claim in record["claims"]:
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

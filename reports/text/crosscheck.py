"""Other counters beside segmeter's, as a table and notes."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from segmeter.reports.units import PART_TITLES, giga, title


def crosscheck_table(record: Mapping[str, Any]) -> Table:
    """The three counters beside segmeter's count, with what each passes over."""
    height, width = record["padded_size"]
    table = Table(title=f"{record['title']} at {height}x{width}, GMACs", title_justify="left")
    table.add_column("part")
    table.add_column("counter")
    for name in ("counter says", "segmeter", "difference"):
        table.add_column(name, justify="right")
    table.add_column("explained by")
    table.add_column("unexplained", justify="right")
    last_part = None
    for row in record["rows"]:
        if last_part not in (None, row["part"]):
            table.add_section()
        unexplained = row["unexplained_gmacs"]
        if row["failed"]:
            table.add_row(
                "" if row["part"] == last_part else PART_TITLES.get(row["part"], row["part"]),
                f"{row['counter']} {row['version']}",
                "-",
                giga(row["reference_gmacs"]),
                "-",
                f"cannot count this model: {row['failed']}",
                "-",
            )
            last_part = row["part"]
            continue
        table.add_row(
            "" if row["part"] == last_part else PART_TITLES.get(row["part"], row["part"]),
            f"{row['counter']} {row['version']}",
            giga(row["gmacs"]),
            giga(row["reference_gmacs"]),
            giga(row["reference_gmacs"] - row["gmacs"]),
            ", ".join(f"{title(op)} {giga(g)}" for op, g in row["explained"].items()) or "nothing",
            Text(giga(unexplained), style="bold red" if unexplained else ""),
        )
        last_part = row["part"]
    return table


def crosscheck_notes(record: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    """Why each counter differs, and what fvcore itself reports as unsupported."""
    lines = [f"convention  {record['convention']}: {record['convention_text']} [GMACs]"]
    seen = {op for row in record["rows"] for op in row["explained"]}
    lines += [f"  {title(op)}: {reasons[op]}" for op in reasons if op in seen]
    lines += [
        f"  {title(op)}: has a formula here, a registered one or our own, that no other counter knows"
        for op in sorted(seen - reasons.keys())
    ]
    unsupported: dict[str, int] = {}
    for row in record["rows"]:
        for op, calls in (row["unsupported_ops"] or {}).items():
            unsupported[op] = unsupported.get(op, 0) + calls
    listed = ", ".join(f"{op.removeprefix('aten::')} {n}x" for op, n in sorted(unsupported.items()))
    lines.append(f"fvcore reports as unsupported: {listed or 'nothing'}")
    lines.append("ptflops and torch pass over an operator without a word")
    if record.get("real_input"):
        lines.append(f"counted on a photo, weights random: {record['real_input']}")
    lines.append(f"unexplained in all: {giga(record['unexplained_gmacs'])} GMACs")
    return lines

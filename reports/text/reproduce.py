"""The published cells beside what is measured, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.reports.units import giga, percent, printed


def reproduction_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The paper's tables, measured beside published."""
    tables: dict[int, Table] = {}
    for row in rows:
        table = tables.get(row["table"])
        if table is None:
            table = tables[row["table"]] = Table(
                title=f"Table {row['table']} of the PRO-SCALE paper, GMACs (printed as GFLOPs)",
                title_justify="left",
            )
            for name in ("row", "model", "backbone", "data set", "figure"):
                table.add_column(name)
            for name in ("published", "measured", "difference"):
                table.add_column(name, justify="right")
            table.add_column("measured at")
            table.add_column("verdict")
        measured, off = row["measured_gmacs"], row["difference_percent"]
        table.add_row(
            str(row["row"]),
            row["model"],
            row["backbone"],
            row["dataset"],
            row["what"],
            printed(row["printed"]),
            "-" if measured is None else giga(measured),
            "-" if off is None else percent(off, signed=True),
            row["size"],
            row["verdict"],
        )
    return list(tables.values())


def reproduction_notes(rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, str]) -> list[str]:
    """Counts by verdict, what a verdict means, and the notes on cells that are not reproduced."""
    lines = [f"{len(rows)} cells"]
    for verdict, meaning in verdicts.items():
        number = sum(row["verdict"] == verdict for row in rows)
        if number:
            lines.append(f"  {number:3d} {verdict}: {meaning}")
    lines += [
        f"Table {row['table']}, row {row['row']} ({row['model']}, {row['what']}): {row['note']}"
        for row in rows
        if row["note"]
    ]
    return lines

"""Which tables of the paper can be audited or printed, and how a user names one; needs no torch."""

from collections.abc import Collection

from segmeter.harness.published import PRO_SCALE, PublishedRow, find_paper, published_rows
from segmeter.words import nearest

GFLOPS_TABLES = range(1, 12)
TABLES = {
    1: "Performance and compute on COCO",
    2: "Performance and compute on Cityscapes",
    5: "Backbones on COCO",
    6: "PRO-SCALE's configurations",
    7: "Larger backbones on Cityscapes",
}


def fps_rows() -> list[PublishedRow]:
    """Every printed FPS figure of the PRO-SCALE paper."""
    return [row for row in published_rows() if row.paper == PRO_SCALE and row.metric == "fps"]


def audit_tables() -> list[int]:
    """Tables that hold GFLOPs or FPS, and can be audited."""
    return sorted({*GFLOPS_TABLES, *(row.table for row in fps_rows())})


def check_tables(tables: Collection[int], paper: str = PRO_SCALE) -> None:
    """Refuse a paper or table that cannot be audited.

    Raises:
        ValueError: one line with the nearest valid choice.
    """
    if find_paper(paper) != PRO_SCALE:
        raise ValueError(
            f"paper {paper!r} gives no encoder GFLOPs to audit; its figures are in results/published; "
            f"choose {PRO_SCALE}"
        )
    known = audit_tables()
    for table in tables:
        if table not in known:
            closest = min(known, key=lambda t: (abs(t - table), t))
            listed = f"1 to {GFLOPS_TABLES[-1]}" + "".join(f", {t}" for t in known if t > GFLOPS_TABLES[-1])
            raise ValueError(
                f"table {table} has no GFLOPs or FPS to audit; choose from {listed}; nearest: {closest}"
            )


def find_table(text: str) -> int:
    """A table's number from what a user wrote.

    Raises:
        ValueError: not a number of a table that can be audited; the nearest valid choice is named.
    """
    try:
        number = int(text.strip().lower().removeprefix("table").strip())
    except ValueError:
        known = [str(t) for t in audit_tables()]
        raise ValueError(f"table must be a number, got {text!r}{nearest(text, known)}") from None
    check_tables((number,))
    return number


def table_number(text: str) -> int:
    """A table's number from "2" or "table2".

    Raises:
        ValueError: a table whose layout is not among :data:`TABLES`.
    """
    number = text.lower().removeprefix("table").strip(" .")
    if number.isdecimal() and int(number) in TABLES:
        return int(number)
    known = [str(n) for n in TABLES]
    raise ValueError(
        f"unknown table {text!r}{nearest(number, known) if not number.isdecimal() else _known()}"
    )


def _known() -> str:
    return f"; choose from {', '.join(str(n) for n in TABLES)}"

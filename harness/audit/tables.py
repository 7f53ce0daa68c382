"""Which tables of the paper can be audited, reproduced and printed, and how one is named; needs no torch."""

from collections.abc import Collection

from segmeter.harness.published import PRO_SCALE, PublishedRow, find_paper, published_rows

GFLOPS_TABLES = range(1, 12)
# What each table shows, in our words.
TABLES = {
    1: "Performance and compute on COCO",
    2: "Performance and compute on Cityscapes",
    3: "The stride-4 path, step by step",
    4: "Lite-M2F with LPE",
    5: "Backbones on COCO",
    6: "PRO-SCALE's configurations",
    7: "Larger backbones on Cityscapes",
    8: "Detectors beside segmenters",
    9: "Speed on COCO",
    10: "Open-vocabulary segmentation",
    11: "MaskDINO with PRO-SCALE",
    15: "Speed on Cityscapes",
    16: "Speed on COCO, by backbone",
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
            raise ValueError(
                f"table {table} has no GFLOPs or FPS; choose from {known_tables()}; nearest: {closest}"
            )


def find_table(text: str) -> int:
    """A table's number from what a user wrote: "2", "table2" or "Table 2".

    Raises:
        ValueError: not a number of a table that can be audited; the nearest valid choice is named.
    """
    number = text.strip().lower().removeprefix("table").strip(" .")
    if not number.isdecimal() or len(number) > 3:
        raise ValueError(f"table must be a number, got {text!r}; choose from {known_tables()}")
    check_tables((int(number),))
    return int(number)


def known_tables() -> str:
    """The tables in words, for a help or error line."""
    further = (f", {table}" for table in audit_tables() if table > GFLOPS_TABLES[-1])
    return f"1 to {GFLOPS_TABLES[-1]}" + "".join(further)

"""A quality record as a table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def quality_table(record: Mapping[str, Any]) -> list[Any]:
    """PQ, AP and mIoU of one record, and what a reader must know of them, as things to print."""
    title = f"{record['title']} on {record['dataset']} {record['split']}, {record['images']} images"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("PQ", "SQ", "RQ"):
        table.add_column(name, justify="right")
    for label, row in (("all", record), ("things", record["things"]), ("stuff", record["stuff"])):
        if row is not None and row["pq"] is not None:
            table.add_row(label, *(_text(row[name]) for name in ("pq", "sq", "rq")))
    lines: list[Any] = []
    if table.rows:
        lines.append(table)
    else:
        lines.append(title)
    if record["ap"] is not None:
        lines.append(
            f"AP    {_text(record['ap'])}  (AP50 {_text(record['ap50'])}, AP75 {_text(record['ap75'])})"
        )
    if record.get("box_ap") is not None:
        more = f"(AP50 {_text(record['box_ap50'])}, AP75 {_text(record['box_ap75'])})"
        lines.append(f"box AP  {_text(record['box_ap'])}  {more}")
    if record["miou"] is not None:
        lines.append(f"mIoU  {_text(record['miou'])}  (pixel accuracy {_text(record['pixel_accuracy'])})")
    times = record.get("seconds_per_image")
    if times:
        lines.append(f"time  {times['mean']:.3f} s an image ({record['device']}, {record['dtype']})")
    if record["fault_count"]:
        lines.append(f"LEFT OUT: {record['fault_count']} faults; these are not scores of the whole split")
    lines += [f"note: {note}" for note in record["notes"]]
    return lines


def _text(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"

"""Tidy data, one printed figure a line, as the tables that a paper prints: what results/published/ holds.

The columns are those of docs/published.md. Each table and block becomes a table with one row for a model on a
data set, so that the general rules judge a paper as they judge anybody's table.
"""

from collections.abc import Sequence

from segmeter.harness.inputs import COCO_RULE, format_size, pad
from segmeter.harness.published import FAMILY

NEEDED = {"table", "row_in_table", "block", "model", "backbone", "dataset", "metric", "printed"}
HEADERS = {
    "pq": "PQ",
    "miou": "mIoU",
    "ap": "AP",
    "mask_ap": "mask AP",
    "box_ap": "box AP",
    "pq_th": "PQ things",
    "pq_st": "PQ stuff",
    "gflops_total": "Total GFLOPs",
    "gflops_encoder": "Encoder GFLOPs",
    "params_m": "Params (M)",
    "fps": "FPS",
    "im_per_sec_bs32": "FPS (batch 32)",
    "train_memory_gb": "train memory (GB)",
}
DESCRIBING = ("Model", "Backbone", "Data set", "Size")
# Columns of one table: a file of more is no table's data.
MOST_METRICS = 200
Rows = list[tuple[int, list[str]]]


def is_tidy(header: Sequence[str]) -> bool:
    """Whether a CSV's header is that of tidy data."""
    return set(header) >= NEEDED


def tidy_tables(rows: Rows) -> list[tuple[str, Rows]]:
    """Title and rows of each table, the header first.

    Args:
        rows: of the CSV, its header first, each with its line; a printed table's row has its first figure's.
    """
    header = rows[0][1]
    tables: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    for line, cells in rows[1:]:
        if len(cells) == len(header):
            row = dict(zip(header, cells, strict=True))
            tables.setdefault((row["table"], row["block"]), []).append((line, row))
    return [(f"Table {table}, {block}", _wide(found)) for (table, block), found in tables.items()]


def _wide(found: Sequence[tuple[int, dict[str, str]]]) -> Rows:
    metrics = list(dict.fromkeys(row["metric"] for _, row in found))
    if len(metrics) > MOST_METRICS:
        raise ValueError(f"a table of {len(metrics)} metrics, at most {MOST_METRICS} are read")
    changes = any(row.get("pct_decrement") for _, row in found)
    lines: dict[tuple[str, ...], int] = {}
    figures: dict[tuple[str, ...], dict[str, str]] = {}
    for line, row in found:
        key = tuple([row["row_in_table"], model_name(row), row["backbone"], row["dataset"], _size(row)])
        lines.setdefault(key, line)
        change = row.get("pct_decrement", "")
        printed = f"{row['printed']} ({float(change):+g}%)" if change else row["printed"]
        figures.setdefault(key, {})[row["metric"]] = printed
    more = ["Baseline"] if changes else []
    wide: Rows = [(1, [*DESCRIBING, *(HEADERS.get(metric, metric) for metric in metrics), *more])]
    for key, own in figures.items():
        changed = [_baseline(key, figures)] if changes and any("%)" in text for text in own.values()) else []
        cells = [*key[1:], *(own.get(metric, "") for metric in metrics), *changed]
        wide.append((lines[key], cells + [""] * (len(wide[0][1]) - len(cells))))
    return wide


def _baseline(key: tuple[str, ...], figures: dict[tuple[str, ...], dict[str, str]]) -> str:
    """The row that a printed change is measured against: the last one above that prints none."""
    before = ""
    for other, own in figures.items():
        if other == key:
            break
        if other[2:4] == key[2:4] and not any("%)" in text for text in own.values()):
            before = other[1]
    return before


def model_name(row: dict[str, str]) -> str:
    """A row's model: as the command line has it where it is one of the four encoders, else in words."""
    model, variant, modifier = row["model"], row.get("variant", ""), row.get("modifier", "")
    options = [f":stages={variant}"] if variant else []
    if modifier == "+lpe":
        options.append(":pixel_embedding=lpe")
    if model in FAMILY and row["backbone"] and modifier in ("", "+lpe"):
        return f"{model}@{row['backbone']}{''.join(options)}"
    return " ".join(part for part in (model, f"({variant})" if variant else "", modifier) if part)


def _size(row: dict[str, str]) -> str:
    """The stated size; where a resize rule is stated, what its largest image is padded to."""
    size = row.get("image_size", "")
    if "resize" in size:
        return format_size(pad((COCO_RULE.short, COCO_RULE.long)))
    return size or ("1024x2048" if row["dataset"] == "cityscapes" else "")

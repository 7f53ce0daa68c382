"""A model counted image by image: tokens of each layer, the histogram of the images, batches beside them."""

from typing import Any

from rich.table import Table

from segmeter.harness.records import FlopsRecord
from segmeter.reports.units import giga, percent

BAR = 40


def images_tables(record: FlopsRecord) -> list[Table]:
    """Tokens of each layer, and how many images cost how much; nothing for other counts."""
    if "images" not in record:
        return []
    return [*_tokens(record), *_histogram(record)]


def images_notes(record: FlopsRecord) -> list[str]:
    """What reducing costs, what batches cost, and which files were left out."""
    if "images" not in record:
        return []
    total, unit = record["total_gmacs"], record["unit"]
    number, size = len(record["images"]), record["size"]
    lines = [f"images      {number}, each resized to {size}; weights {record['weights']}"]
    reducing = record["reducing_gmacs"]
    if reducing:
        lines.append(f"reducing    {giga(reducing)} {unit} of the mean, {percent(100 * reducing / total)}")
    if "batches" in record:
        found = record["batches"]
        lines.append(
            f"in batches  of {found['batch']}: {giga(found['mean_gmacs'])} {unit} an image, "
            f"{percent(100 * (found['ratio'] - 1), signed=True)} against {giga(found['alone_gmacs'])} alone"
        )
    if record["skipped"]:
        lines.append(f"skipped     {len(record['skipped'])} of the files, which cannot be read")
    return lines


def _tokens(record: FlopsRecord) -> list[Table]:
    layers = record["token_layers"]
    if not layers:
        return []
    batches = record.get("batches", {}).get("token_layers", [])
    table = Table(title="tokens by layer", title_justify="left")
    columns = ["mean in", "range", "mean out", "range", *(["in batches, mean out"] if batches else [])]
    for place, name in enumerate(["layer", *columns]):
        table.add_column(name, justify="right" if place else "left")
    before: list[str] = []
    for place, layer in enumerate(layers):
        cells = [*_cells(layer["entering"]), *_cells(layer["leaving"])]
        if batches:
            cells.append(f"{batches[place]['leaving']['mean']:.1f}")
        if cells != before:
            table.add_row(layer["layer"], *cells)
        before = cells
    if len(table.rows) < len(layers):
        table.caption = "layers without a row are as the one before them"
    return [table]


def _cells(values: dict[str, Any]) -> list[str]:
    return [f"{values['mean']:.1f}", f"{values['min']} to {values['max']}"]


def _histogram(record: FlopsRecord) -> list[Table]:
    edges, images = record["histogram"]["edges"], record["histogram"]["images"]
    if len(images) < 2:
        return []
    table = Table(title=f"images by cost [{record['unit']}]", title_justify="left")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("images", justify="right")
    table.add_column("")
    for low, high, number in zip(edges, edges[1:], images, strict=False):
        table.add_row(giga(low), giga(high), str(number), "█" * round(BAR * number / max(images)))
    return [table]

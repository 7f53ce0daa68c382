"""What models cost, as tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from segmeter.harness.records import PARTS, Component, FlopsRecord, compared_parts, part_figure
from segmeter.plain import plain
from segmeter.reports.units import PART_TITLES, change, covered, giga, millions, percent, title


def flops_tree(record: FlopsRecord, depth: int) -> Table:
    """One model's cost per component, ``depth`` levels deep, with shares of the total."""
    unit = record["unit"]
    between = ", " if record["size"].startswith("mean over") else " at "
    heading = between.join(part for part in (record["title"], record["size"]) if part)
    table = Table(title=heading, title_justify="left")
    table.add_column("component")
    table.add_column(unit, justify="right")
    table.add_column("share", justify="right")
    spread = record.get("spread", {})
    if spread:
        table.add_column("std", justify="right")
        table.add_column("range", justify="right")
    total = record["total_gmacs"]

    def spread_cells(part: str) -> list[str]:
        if not spread:
            return []
        if part not in spread:
            return ["", ""]
        s = spread[part]
        return [giga(s["std"]), f"{giga(s['min'])} to {giga(s['max'])}"]

    for path, node, level in _walk(record["components"], depth):
        name = Text("  " * level + plain(title(path)), style="bold" if level == 0 else "")
        share = percent(100 * node["gmacs"] / total) if total else ""
        cells = spread_cells(path if level == 0 else "-")
        table.add_row(name, giga(node["gmacs"]), share, *cells)
    table.add_section()
    table.add_row("total", giga(total), percent(100.0), *spread_cells("total"), style="bold")
    return table


def flops_notes(record: FlopsRecord) -> list[str]:
    """What a reader must know beside the figures: convention, sizes, what was not counted."""
    encoder = f", encoder {millions(record['encoder_params'])}" if record["encoder_params"] else ""
    lines = [
        f"convention  {record['convention']}: {record['convention_text']} [{record['unit']}]",
        f"parameters  {millions(record['params'])}{encoder}",
        f"coverage    {_coverage(record)}",
    ]
    if "range" in record:
        least, most = (giga(figure) for figure in record["range"])
        lines.append(f"range       {least} to {most} {record['unit']}: values choose what runs (torch.cond)")
    if record["original_size"] and record["backbone"]:
        height, width = record["original_size"]
        lines.append(f"results     resized to {height}x{width}, 1 image, batch 1")
    if "inputs" in record:
        inputs = ", ".join(f"{name} {shape}" for name, shape in record["inputs"].items())
        lines.append(f"inputs      {inputs} (size: {record['inputs_from']})")
    lines += [f"beware      {trap}" for trap in record.get("traps", [])]
    if "input_dependent" in record:
        weights = record.get("weights", "random")
        lines.append(f"real inputs mean over photos, weights {weights}: {record['input_dependent']}")
    if "without_macs_gflops" in record:
        beside = ", ".join(
            f"{title(kind)} {giga(gflops)}" for kind, gflops in record["without_macs_gflops"].items()
        )
        lines.append(f"no MACs     {beside} GFLOPs")
    if "moved" in record:
        moved = ", ".join(f"{title(kind)} {figure:,.0f}" for kind, figure in record["moved"].items())
        lines.append(f"no FLOPs    {moved}")
    if record["not_counted"]:
        lines.append(f"not counted by '{record['convention']}':")
        for name, figure in record["not_counted"].items():
            amount = "unknown" if figure is None else f"{giga(figure)} {record['unit']}"
            reason = record["not_counted_reasons"][name]
            lines.append(f"  {title(name)}: {amount} ({reason})")
    else:
        lines.append("not counted nothing that has multiply-accumulates")
    return lines


def _coverage(record: FlopsRecord) -> str:
    if record["coverage"] is None:
        return "unknown: operators without a formula ran"
    return f"{covered(record['coverage'])} of all estimated work (in FLOPs)"


def _walk(
    components: Mapping[str, Component], depth: int, above: str = "", level: int = 0
) -> Iterable[tuple[str, Component, int]]:
    order = [p for p in PARTS if p in components] if level == 0 else []
    names = order + [name for name in components if name not in order]
    for name in names:
        node = components[name]
        path = f"{above}.{name}" if above else name
        yield path, node, level
        if level + 1 < depth:
            own = node["gmacs"] - sum(part["gmacs"] for part in node["parts"].values())
            yield from _walk(node["parts"], depth, path, level + 1)
            if node["parts"] and own > 1e-6 * node["gmacs"]:
                yield f"{path}.other", {"gmacs": own, "parts": {}}, level + 1


def comparison(records: Sequence[FlopsRecord]) -> Table:
    """Models side by side, with each figure's change against the first model."""
    first = records[0]
    sizes = [record["size"] for record in records]
    one = sizes[0][:1].upper() + sizes[0][1:] if sizes[0].startswith("mean over") else f"At {sizes[0]}"
    where = one if len(set(sizes)) == 1 else f"Each at its own size, {', '.join(sizes)}"
    table = Table(title=Text(f"{where}, in {first['unit']}"), title_justify="left")
    table.add_column("component")
    for index, record in enumerate(records):
        table.add_column(record["title"], justify="right")
        if index:
            table.add_column("change", justify="right")
    for part in (*compared_parts(records), "total"):
        row: list[str] = ["total" if part == "total" else PART_TITLES.get(part, title(part))]
        reference = part_figure(first, part)
        for index, record in enumerate(records):
            figure = part_figure(record, part)
            row.append(giga(figure))
            if index:
                row.append(change(figure, reference))
        if part == "total":
            table.add_section()
        table.add_row(*row, style="bold" if part in ("encoder", "total") else "")
    row = ["parameters"]
    for index, record in enumerate(records):
        row.append(millions(record["params"]))
        if index:
            row.append(change(record["params"], first["params"]))
    table.add_row(*row)
    return table


def comparison_summary(records: Sequence[FlopsRecord]) -> list[dict[str, Any]]:
    """For each model, the change of each part against the first model, in percent.

    A part that the first model does not have is None.
    """
    first = records[0]
    return [
        {
            "model": record["model"],
            "against": first["model"],
            "percent": {
                part: (
                    100 * (part_figure(record, part) / part_figure(first, part) - 1)
                    if part_figure(first, part)
                    else None
                )
                for part in (*compared_parts(records), "total")
            },
        }
        for record in records
    ]

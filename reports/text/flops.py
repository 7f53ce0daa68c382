"""Records as rich tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from segmeter.harness.records.flops import Component, FlopsRecord
from segmeter.reports.units import PART_TITLES, PARTS, giga, millions, percent, title


def flops_tree(record: FlopsRecord, depth: int) -> Table:
    """One model's cost per component, ``depth`` levels deep, with shares of the total."""
    unit = record["unit"]
    table = Table(title=f"{record['title']} at {record['size']}", title_justify="left")
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
        name = Text("  " * level + title(path), style="bold" if level == 0 else "")
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
        f"coverage    {percent(100 * record['coverage'])} of all estimated work (in FLOPs)",
    ]
    if record["original_size"] and record["backbone"]:
        height, width = record["original_size"]
        lines.append(f"results     resized to {height}x{width}, 1 image, batch 1")
    if "input_dependent" in record:
        lines.append(f"real inputs mean over photos, weights random: {record['input_dependent']}")
    if record["not_counted"]:
        lines.append(f"not counted by '{record['convention']}':")
        for name, figure in record["not_counted"].items():
            amount = "unknown" if figure is None else f"{giga(figure)} {record['unit']}"
            reason = record["not_counted_reasons"][name]
            lines.append(f"  {title(name)}: {amount} ({reason})")
    else:
        lines.append("not counted nothing that has multiply-accumulates")
    return lines


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
    table = Table(title=f"At {first['size']}, in {first['unit']}", title_justify="left")
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


def compared_parts(records: Sequence[FlopsRecord]) -> list[str]:
    """segmeter's four parts, if a model has them, then the components of whole models of the user's own."""
    found = list(PARTS) if any(record["backbone"] for record in records) else []
    for record in records:
        found += [name for name in record["components"] if name not in found]
    return found


def part_figure(record: FlopsRecord, part: str) -> float:
    """A part's figure in the record's unit; ``total`` for the whole model."""
    if part == "total":
        return record["total_gmacs"]
    node = record["components"].get(part)
    return node["gmacs"] if node else 0.0


def change(figure: float, reference: float) -> str:
    """Change against a reference, in percent."""
    return percent(100 * (figure / reference - 1), signed=True) if reference else "-"


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
        f"  {op}: has a formula of your own, which no other counter knows"
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
            row["printed"],
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


def catalogue_tables(listed: Mapping[str, Any]) -> list[Table]:
    """Encoders with options, backbones, data sets, conventions and presets."""
    encoders = Table(title="Encoders", title_justify="left")
    for name in ("name", "what it is", "options and defaults", "source"):
        encoders.add_column(name)
    for name, row in listed["encoders"].items():
        options = "\n".join(f"{o} = {d}" for o, d in row["options"].items()) or "none"
        encoders.add_row(name, row["summary"], options, row["source"])
    tables = [encoders]
    for key, heading in (
        ("choices", "Option values"),
        ("entry_points", "Encoders of installed packages (entry points segmeter.encoders)"),
        ("backbones", "Backbones (or any timm model with strides 4, 8, 16, 32)"),
        ("datasets", "Data sets' image sizes (nothing is downloaded)"),
        ("conventions", "Counting conventions"),
    ):
        if not listed[key]:
            continue
        table = Table(title=heading, title_justify="left")
        table.add_column("name")
        table.add_column("what it is")
        for name, text in listed[key].items():
            table.add_row(name, text)
        tables.append(table)
    presets = Table(title="Presets: the papers' rows, as models", title_justify="left")
    for name in ("preset", "model", "data set", "where it stands"):
        presets.add_column(name)
    for name, row in listed["presets"].items():
        presets.add_row(name, row["model"], row["dataset"], row["source"])
    return [*tables, presets]

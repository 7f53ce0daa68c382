"""Efficiency cards and their checks: for a terminal, as Markdown, and as metadata for the Hub."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from rich.table import Table

from segmeter.harness.records import (
    PARTS,
    Card,
    CardModel,
    Cost,
    Measured,
    component_cost,
    images_of,
    to_json,
    top_components,
)
from segmeter.plain import json_text, markdown, markdown_code, plain
from segmeter.reports.badge import badge_svg
from segmeter.reports.text.markdown import Markup, markdown_table
from segmeter.reports.units import PART_TITLES, amount, giga, millions, title

FORMATS = ("text", "json", "md", "svg", "hub")
# What the file's ending says of its form.
BY_SUFFIX = {".json": "json", ".md": "md", ".svg": "svg", ".yaml": "hub", ".yml": "hub"}
HUB_TASK = ("image-segmentation", "Image Segmentation")
MEMORY_TITLES = {
    "parameter_bytes": "weights",
    "activation_bytes": "activations written, estimated",
    "peak_rss_over_start_bytes": "peak over the start",
    "start_rss_bytes": "resident at the start",
    "peak_allocated_bytes": "peak, allocated",
    "peak_reserved_bytes": "peak, reserved",
    "peak_allocated_over_start_bytes": "peak over the start, allocated",
    "peak_reserved_over_start_bytes": "peak over the start, reserved",
}
# Photos of a card that Markdown lists.
SHOWN_PHOTOS = 50
ENVIRONMENT = ("device_name", "system", "threads")


def rendered(card: Card, form: str) -> str:
    """A card in one of :data:`FORMATS` but "text".

    Raises:
        ValueError: a badge or the Hub's metadata of several models.
    """
    if form == "json":
        return to_json(card)
    if form == "md":
        return card_markdown(card)
    if len(card["models"]) != 1:
        what = "a badge" if form == "svg" else "the Hub's metadata"
        raise ValueError(f"{what} is of one model, the card has {len(card['models'])}")
    return badge(card) if form == "svg" else hub_metadata(card)


def badge(card: Card) -> str:
    """An SVG badge: the model, its cost, the convention and the size."""
    model = card["models"][0]
    cost = model["cost"][0]
    mean = f", mean of {images_of(model)} photos" if "photos" in model else ""
    total = amount(round(cost["total"] / images_of(model)), cost["unit"])
    return badge_svg(model["title"], f"{total} ({cost['convention']}) at {_size(model)}{mean}")


def card_tables(card: Card) -> list[Table]:
    """A table of costs for each model, one of times where there are any."""
    tables = [_cost_table(model) for model in card["models"]]
    timed = [model for model in card["models"] if model["measured"]]
    return [*tables, _time_table(timed)] if timed else tables


def card_notes(card: Card) -> list[str]:
    """What a reader must know beside the tables."""
    lines = []
    for model in card["models"]:
        params = model["parameters"]
        encoder = f", encoder {millions(params['encoder'])}" if params["encoder"] else ""
        lines.append(f"parameters  {plain(model['title'])}: {millions(params['total'])}{encoder}")
        lines += [f"  {line}" for line in _photo_lines(model)]
        for cost in model["cost"]:
            lines += [f"  {line}" for line in _not_counted(cost)]
        if model["measured"]:
            lines += [f"  {line}" for line in _taken(model["measured"])]
        if model["kind"] == "own code":
            lines.append("  own code: `segmeter card verify` counts it only where you name it again")
    return lines


def _photo_lines(model: CardModel) -> list[str]:
    """How the costs spread over the photos, and with what weights."""
    if "photos" not in model:
        return []
    photos = model["photos"]
    lines = []
    for cost in model["cost"]:
        totals = [one["totals"][cost["convention"]] / 1e9 for one in photos["images"]]
        spread = f"mean {giga(fmean(totals))}, standard deviation {giga(pstdev(totals))}"
        ends = f"{giga(min(totals))} to {giga(max(totals))}"
        of = f"{len(totals)} photo{'s' * (len(totals) > 1)}"
        lines.append(f"{cost['convention']} over {of}: {spread}, {ends} G{cost['unit']}")
    return [*lines, f"weights: {plain(photos['weights'])}; {plain(photos['reason'])}"]


def _cost_table(model: CardModel) -> Table:
    number = images_of(model)
    of = f"mean of {number} photos" if "photos" in model else "batch 1"
    table = Table(title=f"{plain(model['title'])} at {_size(model)}, {of}", title_justify="left")
    table.add_column("component")
    for cost in model["cost"]:
        table.add_column(f"{cost['convention']}, G{cost['unit']}", justify="right")
    for name in _tops(model):
        cells = [giga(component_cost(cost, name) / number / 1e9) for cost in model["cost"]]
        table.add_row(plain(PART_TITLES.get(name, title(name))), *cells)
    table.add_section()
    table.add_row("total", *(giga(cost["total"] / number / 1e9) for cost in model["cost"]), style="bold")
    return table


def _time_table(models: Sequence[CardModel]) -> Table:
    table = Table(title="Measured", title_justify="left")
    for name in ("model", "ms", "95 % interval", "images/s", "on", "dtype", "batch", "size"):
        table.add_column(
            name, justify="right" if name in ("ms", "95 % interval", "images/s", "batch") else "left"
        )
    for model in models:
        table.add_row(*(plain(cell) for cell in _time_cells(model)))
    return table


def _time_cells(model: CardModel) -> list[str]:
    taken = model["measured"]
    assert taken is not None
    latency, settings = taken["latency_ms"], taken["settings"]
    return [
        model["title"],
        f"{latency['median']:.2f}",
        f"{latency['low']:.2f} to {latency['high']:.2f}",
        "-" if taken["images_per_s"] is None else f"{taken['images_per_s']:.2f}",
        str(taken["environment"].get("device_name") or settings["device"]),
        settings["dtype"],
        str(settings["batch"]),
        settings["padded_size"],
    ]


def _taken(taken: Measured) -> list[str]:
    memory = [
        f"{MEMORY_TITLES[name]} {amount(int(value), 'bytes')}"
        for name, value in taken["memory"].items()
        if name in MEMORY_TITLES and isinstance(value, int | float)
    ]
    joules = taken["energy"]["joules_per_image"]
    energy = "" if joules is None else f"{joules:.3g} J an image; "
    return [
        f"memory      {', '.join(memory)} ({plain(taken['memory']['source'])})",
        f"energy      {energy}{plain(taken['energy']['source'])}",
        f"record      {plain(taken['record'])}, {plain(taken['time'])}",
    ]


def _not_counted(cost: Cost) -> list[str]:
    return [
        f"not counted by '{cost['convention']}': {title(plain(name))}, {_omitted(one['amount'], cost)} "
        f"({plain(one['reason'])})"
        for name, one in cost["not_counted"].items()
    ]


def _omitted(units: int | None, cost: Cost) -> str:
    return "unknown" if units is None else amount(units, cost["unit"])


def _cost_text(cost: Cost) -> str:
    return amount(cost["total"], cost["unit"])


def _size(model: CardModel) -> str:
    return "x".join(map(str, model["input"]["padded_size"]))


def _tops(model: CardModel) -> list[str]:
    found = list(dict.fromkeys(name for cost in model["cost"] for name in top_components(cost)))
    return [*(part for part in PARTS if part in found), *(name for name in found if name not in PARTS)]


def card_markdown(card: Card) -> str:
    """A card as Markdown: costs in whole numbers, what is not counted, what was measured."""
    parts = ["# Efficiency card"]
    for model in card["models"]:
        size = "x".join(map(str, model["input"]["original_size"]))
        parts += [
            f"## {markdown(model['title'])}",
            f"{markdown_code(model['model'])}, one image of {_size(model)}, results at {size}, "
            f"{model['num_classes']} classes, {model['num_queries']} queries.",
            _markdown_costs(model),
            *_markdown_photos(model),
            f"{model['parameters']['total']:,} parameters, {model['parameters']['encoder']:,} of them the "
            f"encoder's ({markdown(model['parameters']['source'])}).",
            "\n".join(
                f"- `{cost['convention']}`: {markdown(cost['text'])}; {markdown(cost['source'])}"
                for cost in model["cost"]
            ),
        ]
        omitted = [
            [title(name), cost["convention"], _omitted(one["amount"], cost), one["reason"]]
            for cost in model["cost"]
            for name, one in cost["not_counted"].items()
        ]
        if omitted:
            parts.append(markdown_table(["not counted", "by", "amount", "why"], omitted))
        if model["measured"]:
            parts += _markdown_times(model)
    made_with = ", ".join(f"{name} {version}" for name, version in card["made_with"].items())
    parts += [
        "## Verify it",
        "`segmeter card verify card.json` counts every figure again; it ends with 0 where all whole numbers "
        "are the same, with 1 where one differs.",
        f"Made {markdown(card['made'])} with {markdown(made_with)}.",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_costs(model: CardModel) -> str:
    header = ["component", *(f"{cost['convention']}, {cost['unit']}" for cost in model["cost"])]
    rows = [
        [PART_TITLES.get(name, title(name)), *(f"{component_cost(c, name):,}" for c in model["cost"])]
        for name in _tops(model)
    ]
    total = [Markup(f"**{cost['total']:,}**") for cost in model["cost"]]
    return markdown_table(header, [*rows, [Markup("**total**"), *total]])


def _markdown_photos(model: CardModel) -> list[str]:
    """The photos that the costs above are of, each with its own."""
    if "photos" not in model:
        return []
    lines = [f"- {markdown(line)}" for line in _photo_lines(model)]
    images = model["photos"]["images"]
    rows = [
        [one["name"], one["sha256"][:16], *(f"{one['totals'][c['convention']]:,}" for c in model["cost"])]
        for one in images[:SHOWN_PHOTOS]
    ]
    header = ["photo", "SHA-256", *(f"{cost['convention']}, {cost['unit']}" for cost in model["cost"])]
    more = [f"{len(images) - SHOWN_PHOTOS} more are in the file."] if len(images) > SHOWN_PHOTOS else []
    together = f"Costs above are of {len(images)} photos together; a share of them is the mean."
    return [together, "\n".join(lines), markdown_table(header, rows), *more]


def _markdown_times(model: CardModel) -> list[str]:
    taken = model["measured"]
    assert taken is not None
    header = ["model", "ms", "95 % interval", "images/s", "on", "dtype", "batch", "size"]
    machine = [f"{name.replace('_', ' ')} {taken['environment'].get(name)}" for name in ENVIRONMENT]
    return [
        markdown_table(header, [_time_cells(model)]),
        "\n".join(f"- {markdown(line)}" for line in (*_taken(taken), ", ".join(machine), taken["source"])),
    ]


def hub_metadata(card: Card) -> str:
    """YAML for the top of a model card on the Hub: its ``model-index``, each figure an evaluation result.

    ``.eval_results`` names a dataset registered as a benchmark for each figure, and there is none for costs.
    All text is quoted as JSON quotes it, which YAML reads alike.
    """
    model = card["models"][0]
    size, number = _size(model), images_of(model)
    what = f"one image of {size}" if number == 1 else f"mean of {number} photos at {size}"
    lines = ["---", "model-index:", f"- name: {_quoted(model['title'])}", "  results:"]
    lines += [
        "  - task:",
        f"      type: {HUB_TASK[0]}",
        f"      name: {HUB_TASK[1]}",
        "    dataset:",
        f"      type: {_quoted('input-' + size)}",
        f"      name: {_quoted(what)}",
        "    metrics:",
    ]
    for cost in model["cost"]:
        name = f"G{cost['unit']}, convention {cost['convention']}"
        mean = cost["total"] / number / 1e9
        total = {"total": cost["total"]} if number == 1 else {"total": cost["total"], "photos": number}
        lines += _metric(cost["unit"].lower(), mean, name, total)
    lines += _metric("parameters", model["parameters"]["total"], "Parameters", {})
    taken = model["measured"]
    if taken:
        settings = {name: taken["settings"][name] for name in ("dtype", "batch", "padded_size")}
        device = str(taken["environment"].get("device_name") or taken["settings"]["device"])
        interval = {name: taken["latency_ms"][name] for name in ("low", "high")}
        lines += _metric(
            "latency", taken["latency_ms"]["median"], f"Latency on {device}, ms", {**settings, **interval}
        )
        if taken["energy"]["joules_per_image"] is not None:
            lines += _metric(
                "energy", taken["energy"]["joules_per_image"], f"J an image on {device}", settings
            )
    return "\n".join([*lines, "---"]) + "\n"


def _metric(kind: str, value: float, name: str, arguments: Mapping[str, Any]) -> list[str]:
    lines = [f"    - type: {_quoted(kind)}", f"      value: {value!r}", f"      name: {_quoted(name)}"]
    if arguments:
        lines += ["      args:", *(f"        {key}: {_quoted(given)}" for key, given in arguments.items())]
    return lines


def _quoted(value: Any) -> str:
    return json_text(plain(value) if isinstance(value, str) else value, None)


def check_tables(check: Mapping[str, Any]) -> list[Table]:
    """The figures that differ, if any."""
    tables = []
    for model in check["models"]:
        if not model["differences"]:
            continue
        table = Table(title=f"{plain(model['title'])}: figures that differ", title_justify="left")
        table.add_column("figure")
        table.add_column("on the card", justify="right")
        table.add_column("counted now", justify="right")
        for one in model["differences"]:
            table.add_row(plain(one["figure"]), _figure(one["card"]), _figure(one["counted"]))
        tables.append(table)
    return tables


def check_notes(check: Mapping[str, Any]) -> list[str]:
    """The verdict on each model, on its time, and what both were made with."""
    lines = []
    for model in check["models"]:
        size = "x".join(map(str, model["size"]))
        number = len(model["differences"]) + model["left_out"]
        said = f"{number} figures differ" if number else f"all {model['figures']} figures the same"
        lines.append(f"{plain(model['title'])} at {size}: {said}")
        if model["left_out"]:
            lines.append(f"  {model['left_out']} more than are shown")
        times = model.get("times")
        if times is None:
            continue
        card, now = times["card"], times["now"]
        words = f"  times {times['verdict']}: {_interval(card)} on the card"
        lines.append(words if now is None else f"{words}, {_interval(now)} now")
        lines += [f"    {plain(reason)}" for reason in (*times["why"], *times["software"])]
    for name, (card_has, here) in check["versions"].items():
        lines.append(f"{plain(name)} {plain(card_has or 'not named')} on the card, {plain(here)} here")
    return [*lines, str(check["verdict"])]


def _interval(latency: Mapping[str, float]) -> str:
    return f"{latency['median']:.2f} ms ({latency['low']:.2f} to {latency['high']:.2f})"


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else plain(value)

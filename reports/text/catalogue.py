"""What can be named, as tables."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from segmeter.plain import plain


def catalogue_tables(listed: Mapping[str, Any]) -> list[Table]:
    """Encoders with options, backbones, data sets, conventions and presets."""
    encoders = Table(title="Encoders", title_justify="left")
    for name in ("name", "what it is", "options and defaults", "source"):
        encoders.add_column(name)
    for name, row in listed["encoders"].items():
        options = Text("\n".join(plain(f"{o} = {d}") for o, d in row["options"].items()) or "none")
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
    # Most are PRO-SCALE's, and their names say where: the row then fits a line of 100 columns.
    presets = Table(title="Presets: papers' rows as models (Table N: of PRO-SCALE)", title_justify="left")
    for name in ("preset", "model", "data set", "where it stands"):
        presets.add_column(name)
    for name, row in listed["presets"].items():
        presets.add_row(name, row["model"], row["dataset"], row["source"].removeprefix("PRO-SCALE, "))
    return [*tables, presets]


def found_table(word: str, found: Mapping[str, str]) -> Table:
    """What a search found: names as every command takes them."""
    count = "1 model" if len(found) == 1 else f"{len(found)} models"
    table = Table(title=Text(plain(f"{count} for {word}")), title_justify="left")
    table.add_column("name")
    table.add_column("what it is")
    for name, text in found.items():
        table.add_row(Text(plain(name)), Text(plain(text)))
    return table

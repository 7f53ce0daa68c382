"""What one step of training costs, as a table for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from segmeter.reports.units import giga, millions, title

MIB = 2**20
COLUMNS = ("forward", "backward", "optimiser")


def training_table(record: Mapping[str, Any]) -> Table:
    """GMACs of each component, and the activations that it keeps for the backward pass."""
    training = record["training"]
    table = Table(title=f"Training {record['title']} at {record['size']}, batch 1", title_justify="left")
    table.add_column("component")
    for name in (*COLUMNS, "kept MiB", "trained"):
        table.add_column(name, justify="right")
    for name, row in (*training["components"].items(), ("total", training["total"])):
        if name == "total":
            table.add_section()
        figures = (giga(row[f"{column}_gmacs"]) for column in COLUMNS)
        cells = (*figures, f"{row['kept_bytes'] / MIB:.1f}", millions(row["trained_params"]))
        table.add_row(title(name), *cells, style="bold" if name == "total" else "")
    return table


def training_notes(record: Mapping[str, Any]) -> list[str]:
    """What is counted, what checkpointing would change, and what the optimiser keeps."""
    training = record["training"]
    checkpointing = training["checkpointing"]
    lines = [
        "training    GMACs of products and the deformable op; losses, norms and resizing are not counted"
    ]
    if checkpointing["blocks"]:
        lines.append(
            f"checkpoint  around {checkpointing['blocks']} blocks: {giga(checkpointing['recomputed_gmacs'])} "
            f"GMACs more, {checkpointing['kept_bytes'] / MIB:.1f} MiB kept at the peak"
        )
    state = training["optimiser_state_bytes"] / MIB
    lines.append(f"optimiser   {training['optimiser']}: {state:.1f} MiB of state in float32")
    if training["frozen"]:
        lines.append(f"frozen      {', '.join(training['frozen'])}")
    return lines

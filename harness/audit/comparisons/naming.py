"""Which rows name a model that segmeter can count. Needs no torch: most tables name none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segmeter.harness.audit.comparisons.table import Row, Table
from segmeter.harness.published import TITLES
from segmeter.model_text import ModelText, library_name

# Rows that are counted, at most.
MOST_ROWS = 200


@dataclass(frozen=True)
class Named:
    """A row, and the model it names as the command line would.

    Attributes:
        implied: the name was put together from the row's cells: which configuration of that name is meant,
            the table does not say.
    """

    table: Table
    row: Row
    model: str
    implied: bool = False


def named_rows(tables: Sequence[Table]) -> list[Named]:
    """Rows whose model is written as segmeter writes it, or given so under [models] of the header."""
    found = []
    for one in _named(tables):
        found.append(one)
        if len(found) == MOST_ROWS:
            break
    return found


def _named(tables: Sequence[Table]) -> Iterator[Named]:
    for table in tables:
        if not any(True for _ in table.of("cost", "params")):
            continue
        given = {name.lower(): model for name, model in table.header.get("models", {}).items()}
        backbone = next(table.of("backbone"), None)
        for row in table.rows:
            model = given.get(row.model.lower(), "")
            on = row.texts[backbone.index].lower().replace(" ", "-") if backbone else ""
            name = row.model.lower().replace(" ", "-")
            if not model and (library_name(row.model) or ModelText.named(row.model.lower()).name in TITLES):
                model = row.model if library_name(row.model) or "@" in row.model else ""
                model = model.lower() if "@" in model and not library_name(model) else model
            implied = not model and bool(on) and name in TITLES
            if implied:
                model = str(ModelText(name, on))
            if model:
                yield Named(table, row, model, implied)

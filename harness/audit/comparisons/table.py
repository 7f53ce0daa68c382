"""A comparison table as it is printed: columns, figures with what prints so, and findings on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# How sure a finding is.
CONTRADICTION, SUSPICIOUS, UNKNOWN = "contradiction", "suspicious", "cannot be known"
SURENESS = {
    CONTRADICTION: "the printed figures exclude one another, whatever was meant",
    SUSPICIOUS: "there is an innocent reading, but the table does not give it",
    UNKNOWN: "the table does not say what would be needed",
}
LEVELS = ("arithmetic", "comparability", "physics", "measurement")
# What a figure may be printed for; the others describe a row.
FIGURES = ("params", "cost", "fps", "latency", "memory", "metric")
CONTEXTS = ("size", "device", "dtype", "batch", "form", "counter", "dataset")
UNITS = {"params": "M", "cost": "G", "fps": "/s", "latency": "ms", "memory": "MB", "metric": ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """A printed number in its column's unit (:data:`UNITS`).

    Attributes:
        value: as printed.
        low, high: what rounds to it.
        change: the change printed behind it in brackets, in percent or in its own unit; None without one.
        change_step: half of the last digit of the change.
        ratio: how a change is printed: percent, factor, absolute; "" where a cell that is one does not say.
        marked: printed in bold.
    """

    value: float
    low: float
    high: float
    change: float | None = None
    change_step: float = 0.0
    ratio: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        index: from 0.
        header: as printed, markup taken away.
        kind: one of :data:`FIGURES` or :data:`CONTEXTS`, or model, backbone, baseline, change, source, other.
        part: the part of the model whose figure it is: "" (unsaid), "total", "encoder" and so on.
        unit: cost only: MACs, FLOPs, or "" where the header says neither.
        scale: times this, a figure is in :data:`UNITS`; None where the header gives no prefix.
        name: of a metric; of a change, the kind of figure that changes.
        ratio: a change only: percent or factor; "" where the header says neither.
        context: what the header says of its figures: size, device, dtype, batch, form.
    """

    index: int
    header: str
    kind: str
    part: str = ""
    unit: str = ""
    scale: float | None = 1.0
    name: str = ""
    ratio: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def same_figure(self) -> tuple[Any, ...]:
        """What it has in common with a column of another table that prints the same."""
        return self.kind, self.part, self.unit, self.name, tuple(sorted(self.context.items(), key=repr))


@dataclass(slots=True)
class Row:
    """One row.

    Attributes:
        number: from 1, without the header.
        line: in the file, from 1.
        model: its name as printed.
        who: the name with the backbone's, where that has a column of its own.
        texts: cells, markup taken away.
        figures: column index -> figure.
        said: what its own cells say of size, device and so on.
        label: every describing cell of it, as one key.
        marks: column index -> the footnote mark that its figure bears.
    """

    number: int
    line: int
    model: str
    texts: Sequence[str]
    figures: dict[int, Figure]
    said: dict[str, Any]
    label: tuple[str, ...] = ()
    who: str = ""
    marks: dict[int, str] = field(default_factory=dict)


@dataclass
class Table:
    """One table with what its header file and notes say of all rows.

    Attributes:
        source: the file's name.
        number: from 1, within the file.
        columns: from left to right.
        rows: whole rows; ragged ones are left out.
        header: what the TOML header says.
        noted: what captions and footnotes say.
        ragged: (row number, line, cells found) of rows with another number of cells.
        unread: (row number, line, column, text) of cells that should be figures.
        mixed_marks: headers of columns with decimal commas and decimal points.
        marks: footnote mark -> what its note says; no key for a mark without a note.
    """

    source: str
    number: int
    columns: tuple[Column, ...]
    rows: list[Row]
    header: Mapping[str, Any]
    noted: Mapping[str, Any]
    ragged: list[tuple[int, int, int]] = field(default_factory=list)
    unread: list[tuple[int, int, str, str]] = field(default_factory=list)
    mixed_marks: list[str] = field(default_factory=list)
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, *kinds: str) -> Iterator[Column]:
        """Columns of these kinds."""
        return (column for column in self.columns if column.kind in kinds)

    def additive(self, *kinds: str) -> list[list[Column]]:
        """Columns of these kinds in groups of one unit: figures that may be added."""
        groups: dict[tuple[str, str], list[Column]] = {}
        for column in self.of(*kinds):
            groups.setdefault((column.kind, column.unit), []).append(column)
        return list(groups.values())

    def context(self, row: Row, column: Column, what: str) -> Any:
        """What is known of a figure's size, device, dtype, batch, form, counter or unit; None for nothing."""
        if what == "unit":
            return column.unit or self.header.get("unit")
        if row.marks:
            noted = self.marks.get(row.marks.get(column.index, ""), {}).get(what)
            if noted is not None:
                return noted
        for known in (column.context, row.said, self.header, self.noted):
            if known.get(what) is not None:
                return known[what]
        return None

    def shared(self, row: Row, column: Column) -> tuple[Any, ...]:
        """All that is known of a figure beside the model."""
        return tuple(self.context(row, column, what) for what in CONTEXTS)


@dataclass(frozen=True)
class Place:
    """A cell: the table's file and number, its row and line there, its column, what it prints."""

    file: str
    table: int
    row: int
    line: int
    column: str
    text: str
    model: str


@dataclass(frozen=True)
class Finding:
    """What does not hold.

    Attributes:
        rule: its name, as in the documentation.
        level: one of :data:`LEVELS`.
        sure: a key of :data:`SURENESS`.
        text: one sentence.
        arithmetic: the computation, "" where there is none.
        cells: what it speaks of; none for a whole table.
        table: file and number, for a finding without cells.
    """

    rule: str
    level: str
    sure: str
    text: str
    arithmetic: str
    cells: tuple[Place, ...]
    table: tuple[str, int]


def place(table: Table, row: Row, column: Column) -> Place:
    """Where a cell stands."""
    text = row.texts[column.index]
    return Place(table.source, table.number, row.number, row.line, column.header, text, row.who)

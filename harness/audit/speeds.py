"""Published FPS beside measured speed: only ratios to M2F are compared, as machines differ."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmeter.harness.audit.tables import fps_rows
from segmeter.harness.models import parse_model, spec_of
from segmeter.harness.published import CLASSES, FAMILY, PublishedCell, PublishedRow
from segmeter.harness.records import DEFAULT_FOLDER, WAYS, Run, collect, how_measured, in_one_runtime

RECORD_FOLDERS = (DEFAULT_FOLDER, Path(__file__).parents[2] / "results" / "records")


@dataclass(frozen=True)
class MeasuredSpeed:
    """A model's speed as a multiple of M2F's in one record, with its 95 % interval."""

    ratio: float
    interval: tuple[float, float]
    record: str
    where: str


@dataclass(frozen=True)
class Speed:
    """One printed FPS figure.

    Attributes:
        row: the figure.
        reference: M2F's figure on the same backbone and data set, in the same table if it has one; None for
            M2F itself and where the paper prints none.
        measured: how many times as fast as M2F the model ran, in each record that says so, the preferred one
            first.
        note: what a reader must know.
    """

    row: PublishedRow
    reference: PublishedRow | None
    measured: tuple[MeasuredSpeed, ...]
    note: str

    @property
    def published_ratio(self) -> float | None:
        """Printed FPS over M2F's."""
        return self.row.value / self.reference.value if self.reference else None


def profile_runs(folders: Sequence[Path] = RECORD_FOLDERS) -> list[Run]:
    """Profile records of these folders, and of those in them, that hold a ratio to another model.

    First what is nearest to how papers time: a GPU, a plain call, one image, fp32; of equal ones the newest.
    """
    runs = {run.id: run for folder in folders if folder.is_dir() for run in collect(folder)[0]}
    timed = [run for run in runs.values() if run.kind == "profile" and run.status == "ok" and run.ratios]
    return sorted(timed, key=_nearness, reverse=True)


def _nearness(run: Run) -> tuple[bool, bool, bool, bool, str]:
    settings = run.settings
    return (
        str(settings.get("device", "")).startswith("cuda"),
        not any(settings.get(way) for way in WAYS),
        settings.get("batch") == 1,
        settings.get("dtype") == "fp32",
        run.time,
    )


def audit_fps(tables: Collection[int] | None, runs: Sequence[Run]) -> list[Speed]:
    """Each FPS figure with its ratio to M2F, printed and measured.

    Args:
        tables: table numbers; all if None.
        runs: profile records, the preferred ones first.
    """
    rows = fps_rows()
    return [_speed(row, rows, runs) for row in rows if tables is None or row.table in tables]


def _speed(row: PublishedRow, rows: Sequence[PublishedRow], runs: Sequence[Run]) -> Speed:
    if row.model == "m2f" and not row.modifier:
        return Speed(row, None, (), "the reference")
    like = [
        r
        for r in rows
        if r.model == "m2f" and not r.modifier and (r.backbone, r.dataset) == (row.backbone, row.dataset)
    ]
    reference = next((r for r in like if r.table == row.table), like[0] if like else None)
    notes = []
    if reference and reference.table != row.table:
        notes.append(f"M2F's figure is that of Table {reference.table}")
    text = _model_text(row)
    if text is None:
        notes.append("not modelled")
        return Speed(row, reference, (), "; ".join(notes))
    measured = tuple(
        MeasuredSpeed(
            float(ratio["times_faster"]),
            (float(ratio["low"]), float(ratio["high"])),
            run.id,
            f"{how_measured(run)}, {run.settings.get('padded_size')}",
        )
        for run in runs
        for ratio in run.ratios
        if (run.model, ratio.get("baseline_model")) == (text, f"m2f@{row.backbone}")
        and in_one_runtime(run, ratio)
    )
    if not measured:
        notes.append(f"no record of {text} beside m2f@{row.backbone}")
    return Speed(row, reference, measured, "; ".join(notes))


def _model_text(row: PublishedRow) -> str | None:
    """The row's model as a record writes it, or None where it is not modelled."""
    if row.model not in FAMILY or row.dataset not in CLASSES:
        return None
    cell = PublishedCell(
        row.table,
        row.row,
        row.model,
        row.variant,
        row.modifier,
        row.backbone,
        row.dataset,
        "total",
        row.printed,
        row.value,
    )
    spec = spec_of(cell)
    return parse_model(spec.text).text if spec else None


def fps_records(found: Sequence[Speed]) -> list[dict[str, object]]:
    """As plain data."""
    return [
        {
            "table": s.row.table,
            "row": s.row.row,
            "model": s.row.label,
            "backbone": s.row.backbone,
            "dataset": s.row.dataset,
            "published_fps": s.row.value,
            "published_ratio": s.published_ratio,
            # Of the record that is nearest to how papers time; all of them below.
            "measured_ratio": s.measured[0].ratio if s.measured else None,
            "interval": list(s.measured[0].interval) if s.measured else None,
            "record": s.measured[0].record if s.measured else "",
            "where": s.measured[0].where if s.measured else "",
            "records": [
                {"ratio": m.ratio, "interval": list(m.interval), "record": m.record, "where": m.where}
                for m in s.measured
            ],
            "note": s.note,
        }
        for s in found
    ]

"""Write a report's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.record import to_json, write_bytes, write_text
from reports.breakdown import FORMATS, breakdown_figure, figure_bytes
from reports.markdown import figures_csv, report_markdown


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``report.md``, ``report.json``, ``figures.csv`` and the breakdown figure.

    Each file is written atomically; the folder must exist. Returns the paths written.

    Raises:
        OSError: the folder is not writable or the disk is full.
    """
    # Everything is made before the first file is touched.
    records = report["records"]
    figure = breakdown_figure(next(iter(records.values())))
    texts = {
        "report.md": report_markdown(report),
        "report.json": to_json(report),
        "figures.csv": figures_csv(records),
    }
    pictures = {f"breakdown.{kind}": figure_bytes(figure, kind) for kind in FORMATS}
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, content in pictures.items():
        write_bytes(folder / name, content)
    return [folder / name for name in (*texts, *pictures)]

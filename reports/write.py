"""Write a report's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.record import to_json, write_bytes, write_text
from reports.breakdown import FORMATS, figure_bytes
from reports.figures import report_figures
from reports.html import report_html
from reports.markdown import figures_csv, report_markdown

FIGURES = "figures"


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``report.json``, ``figures.csv`` and the figures.

    Every figure is an SVG in the folder ``figures``; the breakdown is a PDF, an SVG and a PNG beside the
    report. Each file is written atomically; the folder must exist. Returns the paths written.

    Raises:
        OSError: the folder is not writable or the disk is full.
    """
    # Everything is made before the first file is touched.
    figures = report_figures(report["figures"])
    drawings = {name: (figure_bytes(drawn, "svg").decode(), text) for name, (drawn, text) in figures.items()}
    texts = {
        "report.html": report_html(report, drawings),
        "report.md": report_markdown(report, {name: text for name, (_, text) in drawings.items()}),
        "report.json": to_json(report),
        "figures.csv": figures_csv(report["records"]),
        **{f"{FIGURES}/{name}.svg": svg for name, (svg, _) in drawings.items()},
    }
    breakdown = figures["breakdown"][0]
    pictures = {f"breakdown.{kind}": figure_bytes(breakdown, kind) for kind in FORMATS}
    (folder / FIGURES).mkdir(exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, content in pictures.items():
        write_bytes(folder / name, content)
    return [folder / name for name in (*texts, *pictures)]

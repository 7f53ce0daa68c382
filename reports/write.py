"""Write a report's files."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmeter.harness.records import to_json, write_bytes, write_text
from segmeter.reports.html.page import report_html
from segmeter.reports.plots.breakdown import FORMATS, figure_bytes
from segmeter.reports.plots.named import report_figures
from segmeter.reports.text.markdown import figures_csv, report_markdown
from segmeter.reports.text.tokens import TITLES
from segmeter.reports.text.tokens import figures as token_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"
# A drawing that holds photos goes into the page as a JPEG: the page must stay fit for a mail.
LARGEST_DRAWING, PICTURE_WIDTH = 400_000, 1400


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``report.json``, ``figures.csv`` and the figures.

    Every figure is an SVG in the folder ``figures``; the breakdown is a PDF, an SVG and a PNG beside the
    report. Each file is written atomically; the folder must exist. Returns the paths written.

    Raises:
        OSError: the folder is not writable or the disk is full.
    """
    # Everything is made before the first file is touched.
    figures = report_figures(report["figures"])
    if report["tokens"] is not None:
        drawn_tokens = token_figures(report["tokens"])
        figures |= {name: (drawn, TITLES[name]) for name, drawn in drawn_tokens.items()}
    drawings = {name: (figure_bytes(drawn, "svg").decode(), text) for name, (drawn, text) in figures.items()}
    inlined = {
        name: (svg if len(svg) < LARGEST_DRAWING else _as_picture(figures[name][0]), text)
        for name, (svg, text) in drawings.items()
    }
    texts = {
        "report.html": report_html(report, inlined),
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


def _as_picture(figure: "Figure") -> str:
    """A figure as the ``data:`` address of a JPEG."""
    from PIL import Image

    image = Image.open(io.BytesIO(figure_bytes(figure, "png"))).convert("RGB")
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"

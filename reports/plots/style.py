"""One look for every figure: a paper's column width, a colour-blind safe palette, vector fonts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

# Okabe and Ito's palette, told apart by people with any common colour vision.
BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#F0E442"
SKY, PURPLE, AMBER, GREY = "#56B4E9", "#CC79A7", "#E69F00", "#8C8C8C"

PART_COLOURS = {"backbone": SKY, "encoder": ORANGE, "decoder": GREEN, "postprocess": GREY}
ENCODER_PART_COLOURS = {
    "input_projection": SKY,
    "deformable_attention": ORANGE,
    "ffn": AMBER,
    "norms": PURPLE,
    "recalibration": YELLOW,
    "hybrid": GREEN,
    "pixel_embedding": BLUE,
}
COLUMN_INCHES, PAGE_INCHES = 3.35, 6.9

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 0.4,
    "grid.color": "#D9D9D9",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Same figure, same bytes.
    "svg.hashsalt": "segmeter",
    "savefig.dpi": 300,
    # A dollar sign in a name is one; as formulas names would stop the drawing.
    "text.parse_math": False,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw inside this context."""
    import matplotlib as mpl

    with mpl.rc_context(cast(Any, RC)):
        yield

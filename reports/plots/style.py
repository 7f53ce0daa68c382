"""One look for every figure and the page: colours and markers of systems, a paper's widths, vector fonts.

A colour means one thing: a system's is not a part's, nor a component's or a data set's. Every system has one
colour and one marker wherever it is drawn, in the figures and in the HTML report.
"""

import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from segmeter.plain import plain

# Okabe and Ito's palette, told apart by people with any common colour vision.
BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#F0E442"
SKY, PURPLE, AMBER, GREY = "#56B4E9", "#CC79A7", "#E69F00", "#8C8C8C"

# Tol's light and muted palettes, which share no colour with each other, the systems or the data sets.
PART_COLOURS = {"backbone": "#77AADD", "encoder": "#EE8866", "decoder": "#44BB99", "postprocess": "#B0B0B0"}
ENCODER_PART_COLOURS = {
    "input_projection": "#DDCC77",
    "deformable_attention": "#882255",
    "ffn": "#CC6677",
    "norms": "#AA4499",
    "recalibration": "#999933",
    "hybrid": "#117733",
    "pixel_embedding": "#332288",
}
DATASET_COLOURS = {"coco": "#3B8686", "cityscapes": "#9C5FB5"}
INK, PAGE, GRID = "#000000", "#ffffff", "#D9D9D9"


@dataclass(frozen=True)
class Look:
    """A system's colour on a light and on a dark ground, and its marker by matplotlib's name."""

    light: str
    dark: str
    marker: str


OWN_LOOK = Look("#A8437F", "#E49AC4", "*")
SYSTEM_LOOKS = {
    "m2f": Look("#0072B2", "#5CB3EA", "o"),
    "lite-m2f": Look("#B87C00", "#EAB33C", "D"),
    "rt-m2f": Look("#008A63", "#36C596", "^"),
    "pro-scale": Look("#D55E00", "#FF8A3D", "s"),
}
SYSTEM_TITLES = {"m2f": "M2F", "lite-m2f": "Lite-M2F", "rt-m2f": "RT-M2F", "pro-scale": "PRO-SCALE"}
# Other systems: six colours and seven markers, so that no two of the first 42 look alike.
OTHER_SYSTEMS = (
    *("maskformer", "pem", "yoso", "rap-sam", "remax", "eco-m2f", "maskclip", "fc-clip", "maskdino"),
    *("dino", "lite-detr", "rt-detr", "segmenter", "segformer", "segformer++", "algm", "step", "upsnet"),
    *("lpsnet", "fpsnet", "bgrnet", "pandeeplab", "realtimepan", "bisenetv1", "bisenetv2-l", "stdc1"),
    *("stdc2", "stdc1-seg75", "stdc2-seg75", "ddrnet-23", "ddrnet-23-s", "pidnet-s", "pidnet-m", "pidnet-l"),
)
# What papers call a system that is called otherwise here.
PAPER_NAMES = {"kmax": "remax", "kmaxdeeplab": "remax", "lite-dino": "lite-detr"}
OTHER_COLOURS = (
    ("#5B5EA6", "#A6A8E6"),
    ("#8B5A2B", "#D2A679"),
    ("#5E6B7A", "#A9B4C2"),
    ("#6B7A1F", "#BCCB6A"),
    ("#A33A3A", "#F09A9A"),
    ("#2F7F93", "#86CFE0"),
)
OTHER_MARKERS = ("v", "P", "X", "p", "h", "<", ">")
MARKER_TITLES = {"published": "as published", "measured": "cost measured", "own": "own"}
FADED_INK = "#6B6B6B"
FRONT_INK = "#444444"
# What becomes of a colour on a dark ground; what is not named stays.
DARK = {
    PAGE: "#14181E",
    INK: "#E8ECF1",
    GRID: "#2A323D",
    FADED_INK: "#A9B4C2",
    FRONT_INK: "#C3CBD6",
    "#555555": "#9AA5B3",
    "#262626": "#E8ECF1",
    "#CCCCCC": "#3A4452",
    "#332288": "#8F86E0",
    "#882255": "#D0709F",
    "#117733": "#4CB36F",
    **{look.light: look.dark for look in (OWN_LOOK, *SYSTEM_LOOKS.values())},
    **dict(OTHER_COLOURS),
}


def look_of(system: str, own: bool = False) -> Look:
    """A system's look, by its name alone."""
    if own:
        return OWN_LOOK
    if system in SYSTEM_LOOKS:
        return SYSTEM_LOOKS[system]
    known = PAPER_NAMES.get(system, system)
    # Of anybody else's system the name, not its neighbours in a picture, picks colour and marker.
    if known in OTHER_SYSTEMS:
        number = OTHER_SYSTEMS.index(known)
    else:
        number = zlib.crc32(known.encode("utf-8", "replace"))
    light, dark = OTHER_COLOURS[number % len(OTHER_COLOURS)]
    return Look(light, dark, OTHER_MARKERS[number % len(OTHER_MARKERS)])


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
    "grid.color": GRID,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Same figure, same bytes.
    "svg.hashsalt": "segmeter",
    "savefig.dpi": 300,
    # A dollar sign in a name is one; as formulas names would stop the drawing.
    "text.parse_math": False,
}


# Letters of a name that a figure shows; names out of files may be of any length.
MOST_LETTERS = 48


def shortened(name: object, most: int = MOST_LETTERS) -> str:
    """A name as a figure shows it: no control codes, cut in its middle where it is long.

    >>> shortened("PRO-SCALE (1,1,1)"), shortened("a" * 20 + "z" * 20, 11)
    ('PRO-SCALE (1,1,1)', 'aaaaa…zzzzz')
    """
    text = plain(name)
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def missing_letters(texts: Iterable[str]) -> str:
    """Letters that the figures' font lacks, each once: PNG and PDF show a box for them, SVG the letter.

    >>> missing_letters(["PRO-SCALE", "\u6a21 \u578b"])
    '\u6a21\u578b'
    """
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(RC["font.family"]))
    letters = dict.fromkeys(letter for text in texts for letter in text if letter.isprintable())
    return "".join(letter for letter in letters if not font.get_char_index(ord(letter)))


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw inside this context."""
    import matplotlib as mpl

    with mpl.rc_context(cast(Any, RC)), warnings.catch_warnings():
        # Told once by who writes the file; see missing_letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield

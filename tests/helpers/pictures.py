"""The documents' pictures: ``python -m tests.helpers.pictures`` draws them again.

Each PNG holds a digest of the words and figures in it, by which a test sees whether it is out of date.
"""

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segmeter.harness.tradeoff.figure_data import collect_figures, realised_data
from segmeter.reports.plots.breakdown import figure_bytes
from segmeter.reports.plots.common import darkened
from segmeter.reports.plots.named import report_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
# A report's figure -> the document's picture of it.
PICTURES = {
    "breakdown": "breakdown",
    "pareto-gflops-coco": "figures/pareto",
    **{
        name: f"figures/{name}"
        for name in (
            *("circles", "configurations", "stages", "backbones", "lpe", "resolution", "layers"),
            *("not-counted", "realised"),
        )
    },
}
ALSO_DARK = ("breakdown", "pareto-gflops-coco")
KEY = "segmeter-words"


def data() -> dict[str, Any]:
    """What the pictures are drawn of: what is counted, and for the savings the project's own records."""
    return collect_figures("swin-t") | {"realised": realised_data(ROOT / "results")}


def digest(figure: "Figure") -> str:
    """Of all words and numbers in a figure, wherever they stand."""
    from matplotlib.text import Text

    words = sorted(text.get_text() for text in figure.findobj(Text) if text.get_text().strip())
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def write(figure: "Figure", path: Path) -> None:
    """As a PNG of few colours, which is a third as large."""
    image = Image.open(io.BytesIO(figure_bytes(figure, "png"))).convert("RGB")
    told = PngInfo()
    told.add_text(KEY, digest(figure))
    dpi = (300, 300)
    image.quantize(256, method=Image.Quantize.MEDIANCUT).save(path, pnginfo=told, optimize=True, dpi=dpi)


def main() -> None:
    """Draw them all."""
    figures = report_figures(data())
    for name, place in PICTURES.items():
        figure = figures[name][0]
        write(figure, ROOT / "docs" / f"{place}.png")
        if name in ALSO_DARK:
            write(darkened(figure), ROOT / "docs" / f"{place}-dark.png")


if __name__ == "__main__":
    main()

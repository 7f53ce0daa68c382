"""The table of docs/models.md: ``python -m tests.helpers.models_page`` writes it anew."""

from segmeter.harness.counting import apply_convention, work_of
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import find_components, inputs_of, parse_model
from tests.helpers.library_models import MODELS
from tests.helpers.places import ROOT

PAGE = ROOT / "docs" / "models.md"
START, END = "<!-- table -->", "<!-- end of table -->"
# Figures whose source was read; what they count differs.
_CONDITIONAL = "README of Atten4Vis/ConditionalDETR, MACs; mean over 100 images"
PUBLISHED = {
    "hf:DetrForObjectDetection": f"86 GFLOPs ({_CONDITIONAL})",
    "hf:ConditionalDetrForObjectDetection": f"90 GFLOPs ({_CONDITIONAL})",
    "hf:RTDetrForObjectDetection": "136 GFLOPs (model card of PekingU/rtdetr_r50vd, 2 per MAC)",
}


def row(text: str) -> str:
    """One line of the table: name, size, GMACs under ``macs``, shares of the rows, published figure."""
    spec = parse_model(text, own=True)
    inputs = inputs_of(spec)
    assert inputs is not None
    size = ImageSize(inputs.size, inputs.size)
    figures = apply_convention(work_of(spec, size), find_components(spec), "macs")
    names = dict.fromkeys(name.partition(".")[0] for name in figures.by_component)
    shares = {name: 100 * figures.of(name) / figures.total for name in names}
    largest = sorted(shares, key=lambda name: -shares[name])[:4]
    parts = ", ".join(f"{name.replace('_', ' ')} {shares[name]:.1f} %" for name in largest)
    published = PUBLISHED.get(text, "")
    return f"| `{text}` | {format_size(inputs.size)} | {figures.total / 1e9:.2f} | {parts} | {published} |"


def table() -> str:
    """The whole table."""
    head = "| model | size | GMACs | where it sits | published |\n| --- | --- | ---: | --- | --- |"
    return "\n".join([head, *(row(text) for text in MODELS)])


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}")

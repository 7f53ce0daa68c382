"""Records: one plain, typed, self-contained object for each measurement.

A record is what ``--json`` prints and what ``reports`` reads; it needs no torch. Its keys are a contract:
``total_gmacs`` and every ``gmacs`` are in the convention's unit, which ``unit`` names (GMACs, or GFLOPs
under the ``flops`` convention).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

SCHEMA = "segmeter.flops/1"
GIGA = 1e9
# The parts that segmeter's own systems share, in the order in which they run.
PARTS = ("backbone", "encoder", "decoder", "postprocess")


class Component(TypedDict):
    """Work of one component with everything below it; ``parts`` add up to it with its own share."""

    gmacs: float
    parts: dict[str, "Component"]


class Spread(TypedDict):
    """Over a data set's images, in the record's unit."""

    mean: float
    std: float
    min: float
    max: float


class FlopsRecord(TypedDict):
    """One model's cost at one size, or its mean over a data set's images."""

    schema: str
    model: str
    title: str
    encoder: str
    encoder_title: str
    encoder_options: dict[str, Any]
    backbone: str
    num_classes: int
    num_queries: int
    convention: str
    convention_text: str
    unit: str
    total_gmacs: float
    components: dict[str, Component]
    by_operator: dict[str, float]
    not_counted: dict[str, float | None]
    not_counted_reasons: dict[str, str]
    # None where operators without a formula ran: what is not known has no share.
    coverage: float | None
    params: int
    encoder_params: int
    size: str
    padded_size: list[int] | None
    original_size: list[int] | None
    dataset: NotRequired[dict[str, Any]]
    spread: NotRequired[dict[str, Spread]]
    # The least and the most that branches (torch.cond) leave possible; the total is the dearest of them.
    range: NotRequired[list[float]]
    # Why the figures are a mean over photos: the model's work depends on its input.
    input_dependent: NotRequired[str]
    # For a library's model: what it was called with, and where that is from.
    inputs: NotRequired[dict[str, str]]
    inputs_from: NotRequired[str]
    # What the total leaves out beside arithmetic: comparisons of sorting, bytes of gathering. Not under
    # `published`.
    moved: NotRequired[dict[str, float]]
    # Under `macs`: the FLOPs of softmax and other work without multiply-accumulates, in no total.
    without_macs_gflops: NotRequired[dict[str, float]]
    # Of a count image by image (`--images`): where the weights are from, each image's cost and tokens, the
    # tokens of each layer, the histogram, what reducing tokens costs itself, files that could not be read,
    # and the same images in batches.
    weights: NotRequired[str]
    images: NotRequired[list[dict[str, Any]]]
    token_layers: NotRequired[list[dict[str, Any]]]
    histogram: NotRequired[dict[str, list[Any]]]
    reducing_gmacs: NotRequired[float]
    skipped: NotRequired[list[str]]
    batches: NotRequired[dict[str, Any]]
    # What changes its count without a word, in one line each.
    traps: NotRequired[list[str]]
    # One step of training, under --training.
    training: NotRequired[dict[str, Any]]
    versions: dict[str, str]


def component_tree(by_component: Mapping[str, float]) -> dict[str, Component]:
    """Nest dotted component figures (units of work) into a tree of giga-units.

    >>> component_tree({"encoder.ffn": 2e9, "encoder.norms": 1e9})["encoder"]["gmacs"]
    3.0
    """
    root: dict[str, Component] = {}
    for path, units in by_component.items():
        level = root
        for name in path.split("."):
            node = level.setdefault(name, {"gmacs": 0.0, "parts": {}})
            node["gmacs"] += units / GIGA
            level = node["parts"]
    return root


def compared_parts(records: Sequence[FlopsRecord]) -> list[str]:
    """segmeter's four parts, if a model has them, then the components of whole models of the user's own."""
    found = list(PARTS) if any(record["backbone"] for record in records) else []
    for record in records:
        found += [name for name in record["components"] if name not in found]
    return found


def part_figure(record: FlopsRecord, part: str) -> float:
    """A part's figure in the record's unit; ``total`` for the whole model."""
    if part == "total":
        return record["total_gmacs"]
    node = record["components"].get(part)
    return node["gmacs"] if node else 0.0


def component_units(record: FlopsRecord, component: str) -> float | None:
    """The figure of a dotted component, such as ``encoder.ffn``, or of ``total``, in the record's unit.

    None where the model has no such component.
    """
    if component == "total":
        return record["total_gmacs"]
    level = record["components"]
    node: Component | None = None
    for name in component.split("."):
        node = level.get(name)
        if node is None:
            return None
        level = node["parts"]
    return node["gmacs"] if node else None

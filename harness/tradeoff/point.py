"""A trade-off point: what a model costs and how good it is, with where both were read."""

from dataclasses import dataclass
from typing import Any, TypedDict

UNIT = "published"
OWN = "own"
COSTS = ("gflops_encoder", "gflops_total", "fps", "latency_ms")
QUALITIES = ("pq", "miou", "ap")
FIGURES = (*COSTS, *QUALITIES)


class Interval(TypedDict):
    """An error bar, in its figure's unit, and what it is."""

    low: float
    high: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point; a figure that is missing is None.

    Attributes:
        label, model, encoder, backbone, dataset: what it is; ``model`` as it is written, "" where
            segmeter has no such model.
        source: "published" (all of it as printed), "measured" (its cost is segmeter's, its quality is a
            record's or as printed: ``note`` says which), or "own" (the user's file or model).
        paper, reference, command: where it was read, and what shows it again.
        gflops_encoder, gflops_total: in the papers' unit, 1e9 multiply-accumulates.
        fps, latency_ms: images a second, milliseconds.
        pq, miou, ap: percent.
        spread: figure -> its error bar, where one is known.
        size: the padded input.
        encoder_basis, total_basis: the input that the GFLOPs are for; speed_basis: the machine of the times.
            Figures of two bases are not to be compared; "" is an unknown basis, which compares with none. The
            user's own points have the basis :data:`OWN`, which compares with all.
    """

    label: str = ""
    model: str = ""
    encoder: str = ""
    backbone: str = ""
    dataset: str = ""
    source: str = ""
    paper: str = ""
    reference: str = ""
    command: str = ""
    gflops_encoder: float | None = None
    gflops_total: float | None = None
    fps: float | None = None
    latency_ms: float | None = None
    pq: float | None = None
    miou: float | None = None
    ap: float | None = None
    spread: dict[str, Interval] | None = None
    size: str = ""
    encoder_basis: str = ""
    total_basis: str = ""
    speed_basis: str = ""
    convention: str = ""
    note: str = ""

    @property
    def figures(self) -> dict[str, Any]:
        """Costs and qualities by name."""
        return {name: getattr(self, name) for name in FIGURES}

    @property
    def qualities(self) -> dict[str, Any]:
        """PQ, mIoU and AP by name."""
        return {name: getattr(self, name) for name in QUALITIES}

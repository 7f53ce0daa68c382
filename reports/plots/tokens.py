"""Figures of token redundancy: curves, maps over the photo, layers, and what merging would save."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segmeter.reports.plots.common import finish, new_figure
from segmeter.reports.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE_INCHES, PURPLE, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE_COLOURS = {"s1": BLUE, "s2": GREEN, "s3": ORANGE, "s4": PURPLE, "s5": GREY}
RULE_TITLES = {"bipartite": "one bipartite step", "windows": "2x2 windows"}
RULE_LINES = {"bipartite": "-", "windows": (0, (3, 1.5))}
# Curves a column wide stay readable up to this many encoders beside each other.
MOST_ENCODERS = 3


def curves_figure(record: Mapping[str, Any], place: str = "backbone") -> "Figure":
    """Similarity against distance, along the sequence and in rings, per scale with bands (Figure 9)."""
    scales = _place(record, place)["scales"]
    many = len(record["images"]) > 1
    band = "one standard deviation over images" if many else "one standard deviation over pairs of tokens"
    caption = f"Cosine similarity of tokens at the {place}; bands: {band}. {_source(record)}"
    with paper_style():
        figure, (along, rings) = new_figure(
            True,
            2.3,
            caption,
            2,
            sharey=True,
        )
        for scale, values in scales.items():
            for axes, kind in ((along, "sequence"), (rings, "rings")):
                _curve(axes, values[kind], scale, values["stride"], many)
        along.set_xlabel("distance along the sequence (tokens)")
        rings.set_xlabel("distance on the map (tokens)")
        along.set_ylabel("cosine similarity")
        rings.legend(ncols=2, loc="upper right")
        return finish(figure)


def what_if_figure(record: Mapping[str, Any]) -> "Figure":
    """Tokens removable at each threshold, and the encoder GMACs that go with them, per scale."""
    found = record["what_if"]
    encoders = found["encoders"][:MOST_ENCODERS]
    caption = (
        f"Solid: {RULE_TITLES['bipartite']} (at most half); dashed: {RULE_TITLES['windows']} (at most three "
        f"quarters). GMACs at {found['size']}, convention '{found['convention']}', scale by scale; what "
        f"finding matches costs is not taken off. {_source(record)}"
    )
    with paper_style():
        figure, axes = new_figure(True, 2.3, caption, 1 + len(encoders))
        for scale, shares in found["removable"].items():
            for rule in RULE_TITLES:
                percent = [None if s is None else 100 * s for s in shares[rule]]
                _line(axes[0], found["thresholds"], percent, scale, rule)
            for place, encoder in zip(axes[1:], encoders, strict=True):
                for rule in RULE_TITLES:
                    saved = encoder["scales"][scale]["saved_gmacs"][rule]
                    _line(place, found["thresholds"], saved, scale, rule)
        axes[0].set_title("tokens removable")
        axes[0].set_ylabel("% of the scale's tokens")
        for place, encoder in zip(axes[1:], encoders, strict=True):
            whole = "" if encoder["gmacs"] is None else f" (of {encoder['gmacs']:.1f})"
            place.set_title(f"{encoder['title']}{whole}")
            place.set_ylabel("encoder GMACs saved")
        for place in axes:
            place.set_xlabel("similarity threshold")
            place.set_ylim(bottom=0)
        axes[0].legend(loc="upper right", bbox_to_anchor=(1.02, 1.0))
        return finish(figure)


def maps_figure(record: Mapping[str, Any]) -> "Figure":
    """Similarity inside small windows, laid over each example photo."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    examples = record["examples"]
    scales = sorted({scale for example in examples for scale in example["maps"]})
    with paper_style():
        photos = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(example["jpeg_base64"]))))
            for example in examples
        ]
        heights = [photo.shape[0] / photo.shape[1] for photo in photos]
        width = PAGE_INCHES / (len(scales) + 1)
        figure = Figure(
            figsize=(PAGE_INCHES, width * sum(heights) + 0.18 * len(heights) + 0.62), layout="constrained"
        )
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(examples), len(scales) + 1, squeeze=False, height_ratios=heights)
        drawn = None
        for row, example, photo in zip(grid, examples, photos, strict=True):
            for axes in row:
                axes.set_axis_off()
                axes.imshow(photo)
            row[0].set_title(_short(example["name"]))
            for axes, scale in zip(row[1:], scales, strict=True):
                if scale not in example["maps"]:
                    continue
                packed = example["maps"][scale]
                down, across = packed["covers"]
                drawn = axes.imshow(
                    unpacked(packed),
                    extent=(-0.5, photo.shape[1] * across - 0.5, photo.shape[0] * down - 0.5, -0.5),
                    cmap="viridis",
                    vmin=0,
                    vmax=1,
                    alpha=0.75,
                    interpolation="nearest",
                )
                axes.set_xlim(-0.5, photo.shape[1] - 0.5)
                axes.set_ylim(photo.shape[0] - 0.5, -0.5)
                axes.set_title(f"{scale}, {packed['window']}x{packed['window']} windows")
        if drawn is not None:
            bar = figure.colorbar(
                drawn, ax=list(grid.flat), location="bottom", shrink=0.35, aspect=40, pad=0.02
            )
            bar.set_label("mean cosine similarity inside a window")
            bar.outline.set_linewidth(0.4)
        return finish(figure)


def layers_figure(record: Mapping[str, Any]) -> "Figure":
    """Heat maps over places and scales: neighbours, best matches, and what a layer leaves as it was."""
    places = record["places"]
    scales = sorted({scale for place in places for scale in place["scales"]})
    panels = (
        ("next token in the sequence", lambda m: m["sequence"]["mean"][0], "viridis"),
        ("most similar other token", lambda m: m["nearest"]["mean"], "viridis"),
        ("token to its input", lambda m: m["change"]["mean"] if m["change"] else None, "viridis"),
    )
    weights = record["weights"]["encoder"]
    said = "" if weights is None else f" Encoder weights: {weights['text']}."
    with paper_style():
        figure, axes = new_figure(
            True,
            0.45 + 0.19 * len(places),
            f"Mean cosine similarity of tokens, {_title(record)}; empty: the layer does not update the scale."
            f"{said} {_source(record)}",
            len(panels),
            sharey=True,
        )
        for panel, (title, value, colours) in zip(axes, panels, strict=True):
            table = np.array(
                [[_at(place["scales"].get(scale), value) for scale in scales] for place in places],
                dtype=float,
            )
            panel.imshow(table, aspect="auto", cmap=colours, vmin=0, vmax=1)
            for (row, column), number in np.ndenumerate(table):
                if np.isfinite(number):
                    colour = "white" if number < 0.55 else "black"
                    panel.text(
                        column, row, f"{number:.2f}", ha="center", va="center", fontsize=6, color=colour
                    )
            panel.set_title(title)
            panel.set_xticks(range(len(scales)), scales)
            panel.set_yticks(range(len(places)), [_place_title(place) for place in places])
            panel.tick_params(length=0)
            panel.grid(False)
            for spine in panel.spines.values():
                spine.set_visible(False)
        return finish(figure)


def unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    """A similarity map of a record: (h, w) float."""
    levels = np.frombuffer(base64.b64decode(packed["base64"]), dtype=np.uint8).reshape(packed["size"])
    return packed["low"] + levels / 255 * (packed["high"] - packed["low"])


def _curve(axes: "Axes", values: Mapping[str, Any], scale: str, stride: int, many: bool) -> None:
    spread = values["std_images"] if many else values.get("std_pairs")
    kept = [i for i, mean in enumerate(values["mean"]) if mean is not None]
    distance = [values["distance"][i] for i in kept]
    mean = np.array([values["mean"][i] for i in kept])
    axes.plot(distance, mean, color=SCALE_COLOURS[scale], linewidth=1.1, label=f"{scale} (stride {stride})")
    if spread is not None:
        half = np.array([spread[i] if spread[i] is not None else 0.0 for i in kept])
        axes.fill_between(
            distance, mean - half, mean + half, color=SCALE_COLOURS[scale], alpha=0.15, linewidth=0
        )


def _line(
    axes: "Axes", thresholds: Sequence[float], values: Sequence[float | None], scale: str, rule: str
) -> None:
    kept = [(t, v) for t, v in zip(thresholds, values, strict=True) if v is not None]
    if kept:
        axes.plot(
            *zip(*kept, strict=True),
            color=SCALE_COLOURS[scale],
            linestyle=RULE_LINES[rule],
            linewidth=1.0,
            label=scale if rule == "bipartite" else None,
        )


def _place(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(place for place in record["places"] if place["name"] == name)


def _place_title(place: Mapping[str, Any]) -> str:
    tokens = place["updated_tokens"]
    return place["name"] if tokens is None else f"{place['name']} ({tokens:,.0f} tokens)"


def _at(scale: Mapping[str, Any] | None, value: Any) -> float:
    found = None if scale is None else value(scale)
    return float("nan") if found is None else found


def _source(record: Mapping[str, Any]) -> str:
    number = len(record["images"])
    sizes = list(record["padded_sizes"])
    size = sizes[0] if len(sizes) == 1 else f"{len(sizes)} padded sizes"
    return (
        f"Backbone {record['backbone']}, weights: {record['weights']['backbone']['text']}; "
        f"{number} image{'s' if number > 1 else ''}, {size}."
    )


def _title(record: Mapping[str, Any]) -> str:
    return record["encoder_title"] or record["backbone"]


def _short(name: str, longest: int = 22) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"

"""Where the cost sits: over resolutions, layers and levels, with LPE, and what is not counted."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from segmeter.model_text import ModelText
from segmeter.reports.plots.common import (
    DATASET_TITLES,
    OWN_COLOUR,
    NothingMatches,
    backbone_title,
    colour_of,
    finish,
    ground_legend,
    new_figure,
    on_ground,
    style,
)
from segmeter.reports.plots.style import DATASET_COLOURS, ENCODER_PART_COLOURS, look_of, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple["Figure", str]
OMISSION_TITLES = {
    "deformable_sampling": "deformable sampling",
    "deformable_weighting": "weighting of samples",
    "masked_attention_scores": "masked attention, query-key",
    "linear_resizing": "resizing of position tables",
}
OMISSION_COLOURS = {
    "deformable_sampling": "#4B3F72",
    "deformable_weighting": "#8D6A9F",
    "masked_attention_scores": "#6FB07F",
    "linear_resizing": "#C9A227",
}


def resolution_figure(data: Mapping[str, Any]) -> Picture:
    """Encoder cost against resolution, and the same for each megapixel."""
    megapixels = [pixels / 1e6 for pixels in data["pixels"]]
    backbone = backbone_title(data["backbone"])
    caption = (
        f"Inputs of 1:2 from {data['sizes'][0]} to {data['sizes'][-1]}, backbone {backbone}, convention "
        "'published', batch 1. "
        "Right: a level line is a cost linear in pixels; of the four, RT-M2F's dense attention layer "
        "alone grows faster."
    )
    with style():
        figure, (left, right) = new_figure(True, 2.4, caption, 2)
        for series in data["series"]:
            own, written = series["own"], ModelText.named(series["model"])
            colour = OWN_COLOUR if own else colour_of(written.name)
            # An encoder with options of its own is a variant of the one drawn as a line.
            line = "--" if own else ":" if written.options else "-"
            marker = look_of(written.name, own).marker
            look: dict[str, Any] = {"color": colour, "linewidth": 1.2, "linestyle": line, "marker": marker}
            look["markersize"] = 5 if marker == "*" else 3
            left.plot(megapixels, series["gmacs"], **look)
            each = [g / m for g, m in zip(series["gmacs"], megapixels, strict=True)]
            right.plot(megapixels, each, **look)
        for axes in (left, right):
            axes.set_xlabel("input, megapixels")
            axes.grid(True, axis="both")
            axes.set_xlim(0, megapixels[-1] * 1.2)
            axes.set_xticks(range(6))
        left.set_ylabel("encoder, GMACs")
        right.set_ylabel("encoder, GMACs per megapixel")
        left.set_ylim(bottom=0)
        right.set_ylim(0, 1.1 * max(s["gmacs"][-1] for s in data["series"]) / megapixels[-1])
        finish(figure)
        labels = [shortened(s["label"], 32) for s in data["series"]]
        longest = max(labels, key=len)
        for axes, per_pixel in ((left, False), (right, True)):
            last = megapixels[-1]
            axes.set_xlim(0, last * 1.05 / (1 - _share_of_width(axes, longest)))
            ends = [s["gmacs"][-1] / (last if per_pixel else 1) for s in data["series"]]
            for text, height, series in _spaced(axes, labels, ends, data["series"]):
                colour = OWN_COLOUR if series["own"] else colour_of(ModelText.named(series["model"]).name)
                axes.text(last * 1.03, height, text, fontsize=6, color=colour, va="center")
    return figure, caption


def _share_of_width(axes: Any, text: str) -> float:
    """How much of the axes' width a label takes."""
    drawn = axes.text(0, 0, text, fontsize=6)
    width = drawn.get_window_extent().width / axes.bbox.width
    drawn.remove()
    return min(0.6, float(width))


def _spaced(
    axes: Any, texts: Sequence[str], heights: Sequence[float], series: Sequence[Any]
) -> list[tuple[str, float, Any]]:
    """Labels at the lines' ends, moved apart around their middle where they would touch."""
    low, high = axes.get_ylim()
    least = 7.5 / 72 * axes.get_figure(root=True).dpi / axes.bbox.height * (high - low)
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    # Groups of labels that touch: the middle of their heights, and whose they are.
    groups: list[tuple[float, list[int]]] = []
    for index in order:
        groups.append((heights[index], [index]))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < least * _steps(groups[-2], groups[-1]):
            (_, upper), (_, lower) = groups.pop(), groups.pop()
            members = lower + upper
            groups.append((sum(heights[i] for i in members) / len(members), members))
    return [
        (
            texts[i],
            max(middle, low + least * (len(members) / 2)) + (n - (len(members) - 1) / 2) * least,
            series[i],
        )
        for middle, members in groups
        for n, i in enumerate(members)
    ]


def _steps(lower: tuple[float, list[int]], upper: tuple[float, list[int]]) -> float:
    """Labels from the middle of a group to the middle of the next."""
    return (len(lower[1]) + len(upper[1])) / 2


def layers_figure(data: Mapping[str, Any]) -> Picture:
    """Cost of every layer, level by level: a heat map for each encoder."""
    import seaborn as sns

    caption = (
        f"GMACs of each deformable layer, shared out over the levels of its tokens; {data['size']}, "
        "convention 'published', "
        "batch 1. Values are projected for every level that is read, all else is done for the tokens "
        "that are "
        "updated (framed). Below a name: the sum. RT-M2F has no such layers."
    )
    encoders = data["encoders"]
    most = max(value for e in encoders for layer in e["layers"] for value in layer)
    with style():
        widths = [len(e["layers"]) for e in encoders]
        figure, panels = new_figure(True, 1.5, caption, len(encoders), width_ratios=widths, sharey=True)
        for axes, encoder in zip(panels, encoders, strict=True):
            # Rows from stride 32 down to stride 8, columns by layer; nothing is drawn where nothing is done.
            values = [[layer[level] or nan for layer in encoder["layers"]] for level in range(3)]
            sns.heatmap(
                values,
                ax=axes,
                vmin=0,
                vmax=most,
                cmap="cividis_r",
                annot=True,
                fmt=".1f",
                annot_kws={"fontsize": 5.5},
                cbar=False,
                linewidths=0.6,
                linecolor="white",
            )
            for number, levels in enumerate(encoder["updated"]):
                for level, updated in enumerate(levels):
                    if updated:
                        axes.add_patch(_frame(number, level))
            name = shortened(encoder["label"], 32).replace(" (", "\n(")
            axes.set_title(f"{name}\n{sum(map(sum, encoder['layers'])):.1f} GMACs", fontsize=7)
            axes.grid(False)
            axes.set_xticks(
                [i + 0.5 for i in range(widths[panels.index(axes)])],
                [str(i + 1) for i in range(widths[panels.index(axes)])],
            )
            axes.set_xlabel("layer")
            axes.tick_params(length=0)
        panels[0].set_yticks([0.5, 1.5, 2.5], data["levels"], rotation=0)
        return finish(figure), caption


def _frame(number: int, level: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((number + 0.04, level + 0.05), 0.92, 0.9, fill=False, edgecolor="black", linewidth=0.6)


def lpe_figure(costs: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> Picture:
    """LPE on and off: what it saves in each encoder, and what it costs Lite-M2F (the paper's Table 4)."""
    where = f"{costs[0]['size']}, backbone {backbone_title(costs[0]['backbone'])}"
    caption = (
        f"Left: encoder measured at {where}, convention 'published', batch 1. Right: Lite-M2F with LPE less "
        "Lite-M2F without, Swin-T, as printed in Table 4."
    )
    with style():
        figure, (left, right) = new_figure(True, 2.1, caption, 2)
        for index, (kind, name, colour) in enumerate(
            (("conv", "3x3 convolution", "#B9C0CA"), ("lpe", "LPE", ENCODER_PART_COLOURS["pixel_embedding"]))
        ):
            places = [i + (index - 0.5) * 0.38 for i in range(len(costs))]
            values = [row[kind] for row in costs]
            left.bar(places, values, 0.36, color=colour, label=name)
            for place, value, row in zip(places, values, costs, strict=True):
                saved = f"\n({100 * (value / row['conv'] - 1):.0f} %)" if kind == "lpe" else ""
                left.annotate(
                    f"{value:.1f}{saved}",
                    (place, value),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=6,
                    **on_ground(),
                )
        left.set_xticks(range(len(costs)), [row["label"] for row in costs])
        left.set_ylabel("encoder, GMACs")
        left.margins(y=0.2)
        left.legend(loc="upper right", ncols=2, **ground_legend())
        for index, (dataset, colour) in enumerate(DATASET_COLOURS.items()):
            off, on = _lpe_rows(points, dataset)
            values = [on[key] - off[key] for key in ("pq", "miou", "ap")]
            places = [i + (index - 0.5) * 0.38 for i in range(3)]
            right.bar(places, values, 0.36, color=colour, label=DATASET_TITLES[dataset])
            for place, value in zip(places, values, strict=True):
                right.annotate(
                    f"{value:+.2f}",
                    (place, value),
                    (0, -8),
                    textcoords="offset points",
                    ha="center",
                    fontsize=6,
                    **on_ground(),
                )
        right.axhline(0, color="black", linewidth=0.6)
        right.set_xticks(range(3), ["PQ", "mIoU", "AP"])
        right.set_ylabel("change with LPE, points")
        right.margins(y=0.14)
        right.legend(loc="lower center", **ground_legend())
        for axes in (left, right):
            axes.tick_params(axis="x", length=0)
        return finish(figure), caption


def _lpe_rows(
    points: Sequence[Mapping[str, Any]], dataset: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Table 4's rows of one data set: without and with LPE."""
    rows = [
        p
        for p in points
        if p["source"] == "published"
        and p["paper"] == "pro-scale"
        and p["dataset"] == dataset
        and "Table 4" in p["reference"]
    ]
    pair = [next((p for p in rows if ("LPE" in p["label"]) == on), None) for on in (False, True)]
    if pair[0] is None or pair[1] is None:
        raise NothingMatches(f"nothing matches: no rows of Table 4 on {dataset}")
    return pair[0], pair[1]


def not_counted_figure(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """What the published figures leave out of each model."""
    caption = (
        f"Multiply-accumulates that the published figures do not hold, whole model at {rows[0]['size']}, "
        "batch 1; in brackets "
        "their size beside what is counted. An operator without a formula is not in any bar."
    )
    names = [n for n in OMISSION_TITLES if any((r["not_counted"].get(n) or 0) > 0.005 for r in rows)]
    with style():
        figure, (axes,) = new_figure(False, 0.55 + 0.3 * len(rows), caption)
        places = range(len(rows))
        start = [0.0] * len(rows)
        for name in names:
            values = [row["not_counted"].get(name) or 0.0 for row in rows]
            axes.barh(
                places,
                values,
                0.6,
                start,
                label=OMISSION_TITLES[name],
                color=OMISSION_COLOURS[name],
                edgecolor="white",
                linewidth=0.5,
            )
            start = [a + b for a, b in zip(start, values, strict=True)]
        for place, total, row in zip(places, start, rows, strict=True):
            share = 100 * total / row["total"] if row["total"] else 0.0
            axes.annotate(
                f"{total:.2f} ({share:.1f} %)",
                (total, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
                **on_ground(),
            )
        axes.set_yticks(places, [shortened(row["label"], 28) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, max(start) * 1.3 or 1)
        axes.set_xlabel("not counted, GMACs")
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        if names:
            axes.legend(
                loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, handlelength=1.0, columnspacing=1.0
            )
        return finish(figure), caption

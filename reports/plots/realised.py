"""FLOPs fell, latency did not: claimed beside realised savings, with every record that applies."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from segmeter.model_text import ModelText
from segmeter.reports.plots.common import (
    NothingMatches,
    finish,
    legend_above,
    legend_rows,
    new_figure,
    style,
)
from segmeter.reports.plots.style import FADED_INK, INK, PAGE, look_of
from segmeter.reports.units import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple["Figure", str]
MOST_MODELS = 5
# One for each setting; told apart by shape alone.
SETTING_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
Pair = Mapping[str, Any]


def realised_figure(pairs: Sequence[Pair], backbone: str | None = None) -> Picture:
    """Claimed beside realised saving, component by component: a mark for each record, none of them chosen.

    Args:
        pairs: of :func:`harness.tradeoff.realised.realised_savings`.
        backbone: of the models; None for the one with most records.

    Raises:
        NothingMatches: no timing records of a model beside a baseline.
    """
    if not pairs:
        raise NothingMatches(
            "nothing matches: no timing records of a model beside a baseline; make some with "
            "`segmeter profile m2f pro-scale`"
        )
    shown = comparable(pairs, backbone)
    models = list(dict.fromkeys(pair["title"] for pair in shown))
    settings = sorted({pair["machine"] for pair in shown})
    markers = {name: SETTING_MARKERS[i % len(SETTING_MARKERS)] for i, name in enumerate(settings)}
    common = _common(settings)
    drawn = models[:MOST_MODELS]
    records = sum(pair["title"] in drawn for pair in shown)
    caption = (
        f"Savings against {shown[0]['baseline']} at {shown[0]['size']}, in %: ring, the claim (MACs, "
        f"convention 'published'); other marks, what a clock saw, one for each of {records} records "
        f"({', '.join(common) or 'several machines'}); bar, from the least to the most of them; thin, a 95 % "
        "repeat interval. Left of 0 is slower."
    )
    if records < len(pairs):
        caption += f" {len(pairs) - records} comparisons of other models, sizes or backbones are not shown."
    names = list(
        dict.fromkeys(row["component"] for pair in shown if pair["title"] in drawn for row in pair["rows"])
    )
    with style():
        handles = _handles({_short(name, common): markers[name] for name in settings})
        columns, rows = legend_rows([str(handle.get_label()) for handle in handles], True)
        figure, panels = new_figure(
            True, 0.7 + 0.3 * len(names) + 0.14 * rows, caption, len(drawn), sharey=True, sharex=True
        )
        for axes, model in zip(panels, drawn, strict=True):
            _draw_model(axes, [pair for pair in shown if pair["title"] == model], names, markers)
            axes.axvline(0, color=INK, linewidth=0.6)
            axes.set_title((model.rpartition(", ")[0] or model).replace(" (", "\n("), fontsize=7)
            axes.grid(True, axis="x")
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.set_xlabel("saving, %")
        panels[0].set_yticks(range(len(names)), [_component(name) for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        legend_above(figure, handles, columns)
        return finish(figure), caption


def comparable(pairs: Sequence[Pair], backbone: str | None = None) -> list[Pair]:
    """The pairs of one baseline at one size, those with most records; in the order of the claim.

    Raises:
        NothingMatches: none on that backbone.
    """
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if backbone is None or f"@{backbone}" in pair["model"]:
            groups.setdefault((pair["baseline"], pair["size"]), []).append(pair)
    if not groups:
        raise NothingMatches(f"nothing matches: no timing records beside a baseline with backbone {backbone}")
    most = max(groups.values(), key=len)
    return sorted(most, key=lambda pair: (_claim(pair), pair["title"]))


def spread(pairs: Sequence[Pair], component: str = "total") -> tuple[float, float, float] | None:
    """Least, middle and most realised saving of a component over records, as shares; None without any."""
    values = [row["realised"] for pair in pairs for row in pair["rows"] if row["component"] == component]
    return (min(values), median(values), max(values)) if values else None


def _claim(pair: Pair) -> float:
    return next((row["claimed"] or 0.0 for row in pair["rows"] if row["component"] == "total"), 0.0)


def _draw_model(axes: Any, pairs: Sequence[Pair], names: Sequence[str], markers: Mapping[str, str]) -> None:
    look = look_of(ModelText.named(str(pairs[0]["model"])).name)
    for place, name in enumerate(names):
        rows = [(pair["machine"], row) for pair in pairs for row in pair["rows"] if row["component"] == name]
        bounds = spread(pairs, name)
        if bounds is None:
            continue
        low, _, high = bounds
        axes.plot(
            [100 * low, 100 * high], [place, place], color=look.light, linewidth=6, alpha=0.22,
            solid_capstyle="butt", zorder=1,
        )  # fmt: skip
        # Marks of one row stand a little above each other, so that none hides another.
        step = 0.66 / max(1, len(rows))
        for number, (machine, row) in enumerate(sorted(rows, key=lambda one: one[0])):
            height = place + (number - (len(rows) - 1) / 2) * step
            if row["low"] is not None:
                axes.plot(
                    [100 * row["low"], 100 * row["high"]], [height] * 2, color=look.light, linewidth=0.5
                )
            axes.scatter(
                100 * row["realised"],
                height,
                s=7,
                marker=markers[machine],
                color=look.light,
                linewidth=0,
                zorder=3,
            )
        claims = {round(row["claimed"], 6) for _, row in rows if row["claimed"] is not None}
        for claim in claims:
            axes.scatter(100 * claim, place, s=34, facecolor="none", edgecolor=INK, linewidth=0.9, zorder=4)


def _common(settings: Sequence[str]) -> list[str]:
    """What all settings share, such as the machine's name."""
    first = settings[0].split(", ")
    return [part for part in first if all(part in name.split(", ") for name in settings)]


def _short(setting: str, common: Sequence[str]) -> str:
    """A setting without what all share."""
    return ", ".join(part for part in setting.split(", ") if part not in common) or setting


def _handles(settings: Mapping[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    def one(label: str, marker: str, size: float, fill: str) -> Any:
        return Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=size,
            color=FADED_INK,
            markerfacecolor=fill,
            label=label,
        )

    claim = one("claimed (MACs)", "o", 6, PAGE)
    claim.set_markeredgecolor(INK)
    return [claim, *(one(name, marker, 3.5, FADED_INK) for name, marker in settings.items())]


def _component(name: str) -> str:
    part, _, inner = name.partition(".")
    if name == "total":
        return "whole model"
    return f"  {title(name)}{' (no claim)' if inner == 'elementwise' else ''}" if inner else part

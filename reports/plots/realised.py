"""What a clock sees of the FLOPs saved: claimed beside realised savings, with every record that applies."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from segmeter.model_text import ModelText
from segmeter.reports.plots.common import (
    NothingMatches,
    finish,
    legend_above,
    legend_name,
    legend_rows,
    new_figure,
    shared_parts,
    style,
    without,
)
from segmeter.reports.plots.style import FADED_INK, INK, look_of, shortened
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
    common = shared_parts(settings)
    drawn = models[:MOST_MODELS]
    records = sum(pair["title"] in drawn for pair in shown)
    against, size = (shortened(shown[0][key]) for key in ("baseline", "size"))
    caption = (
        f"Savings against {against} at {size}, in %: upright stroke, the claim (MACs, convention 'published')"
        f"; marks, what a clock saw, one for each of {records} records "
        f"({', '.join(common) or 'several machines'}), in each row from above in the legend's order; bar, "
        "from the least to the most of them; thin, a 95 % repeat interval. Left of 0 is slower."
    )
    if records < len(pairs):
        caption += f" {len(pairs) - records} comparisons of other models, sizes or backbones are not shown."
    names = list(
        dict.fromkeys(row["component"] for pair in shown if pair["title"] in drawn for row in pair["rows"])
    )
    with style():
        handles = _handles({without(name, common): markers[name] for name in settings})
        columns, rows = legend_rows([str(handle.get_label()) for handle in handles], True)
        figure, panels = new_figure(
            True,
            0.7 + _row_inches(len(settings)) * len(names) + 0.14 * rows,
            caption,
            len(drawn),
            sharey=True,
            sharex=True,
        )
        for axes, model in zip(panels, drawn, strict=True):
            _draw_model(axes, [pair for pair in shown if pair["title"] == model], names, markers)
            axes.axvline(0, color=FADED_INK, linewidth=0.6)
            axes.set_title(_model(model), fontsize=7)
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
            [100 * low, 100 * high], [place, place], color=look.light, alpha=0.18, zorder=1,
            linewidth=72 * 0.8 * _row_inches(len(markers)), solid_capstyle="butt",
        )  # fmt: skip
        for machine, height, row in _heights(rows, list(markers), place):
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
            # Behind the marks, and taller than all of them together.
            size = (72 * _row_inches(len(markers)) * 0.86) ** 2
            axes.scatter(100 * claim, place, s=size, marker="|", color=INK, linewidth=1.1, zorder=2)


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
            label=legend_name(label),
        )

    claim = one("claimed (MACs)", "|", 7, INK)
    claim.set_markeredgecolor(INK)
    return [claim, *(one(name, marker, 3.5, FADED_INK) for name, marker in settings.items())]


def _row_inches(settings: int) -> float:
    """Height of a row in which every setting has its place."""
    return 0.14 + 0.035 * max(5, settings)


def _heights(
    rows: Sequence[tuple[str, Mapping[str, Any]]], settings: Sequence[str], place: int
) -> list[tuple[str, float, Mapping[str, Any]]]:
    """Machine, height and figures of a row's marks: each setting has its height, so none hides another."""
    step = 0.74 / len(settings)
    found = []
    for number, name in enumerate(settings):
        same = [row for machine, row in rows if machine == name]
        middle = place + (number - (len(settings) - 1) / 2) * step
        # Records of one setting share its height.
        found += [
            (name, middle + ((i + 0.5) / len(same) - 0.5) * step * (len(same) > 1), row)
            for i, row in enumerate(same)
        ]
    return found


def _model(name: str) -> str:
    """A model's name above its panel, without its backbone, which is the baseline's."""
    return shortened(name.rpartition(", ")[0] or name, 24).replace(" (", "\n(")


def _component(name: str) -> str:
    name = shortened(name, 40)
    part, _, inner = name.partition(".")
    if name == "total":
        return "whole model"
    return f"  {title(name)}{' (no claim)' if inner == 'elementwise' else ''}" if inner else part

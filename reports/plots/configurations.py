"""PRO-SCALE's configurations: Figures 2b and 10, and what tables 5, 6 and 7 say."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.reports.plots.common import (
    BACKBONE_TITLES,
    DATASET_TITLES,
    NothingMatches,
    Point,
    backbone_title,
    colour_of,
    finish,
    ground_legend,
    key,
    legend_above,
    mark,
    new_figure,
    on_ground,
    point_away,
    style,
    window,
)
from segmeter.reports.plots.labels import Label, place_labels
from segmeter.reports.plots.style import (
    DATASET_COLOURS,
    FADED_INK,
    INK,
    PAGE,
    SYSTEM_TITLES,
    look_of,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple["Figure", str]
M2F, PRO_SCALE = look_of("m2f"), look_of("pro-scale")
CONFIGURATIONS = ("(1,1,1)", "(3,1,1)", "(1,3,1)", "(2,2,2)", "(1,1,3)", "(3,3,3)")
DATASETS = ("coco", "cityscapes")


def family(points: Sequence[Point], dataset: str, backbone: str) -> list[Point]:
    """The PRO-SCALE paper's models of the M2F family, measured, each once.

    Raises:
        ValueError: the paper has none on that backbone and data set.
    """
    found: dict[str, Point] = {}
    for p in points:
        wanted = p["source"] == "measured" and p["paper"] == "pro-scale" and p["pq"] is not None
        if wanted and p["dataset"] == dataset and p["backbone"] == backbone:
            found.setdefault(p["label"], p)
    if not found:
        raise NothingMatches(f"nothing matches: the paper has no model on {dataset} with backbone {backbone}")
    return list(found.values())


def circles_figure(points: Sequence[Point], dataset: str = "coco", backbone: str = "swin-t") -> Picture:
    """Encoder GMACs against PQ, the circles' area the whole model's GMACs (as the paper's Figure 2b)."""
    found = sorted(family(points, dataset, backbone), key=lambda p: -p["gflops_total"])
    most = max(p["gflops_total"] for p in found)
    caption = (
        f"{_where(dataset, backbone, found)} Circle area: GMACs of the whole model, "
        f"{min(p['gflops_total'] for p in found):.0f} "
        f"to {most:.0f}. PQ as printed; GMACs measured, convention 'published', batch 1. (p1,p2,p3): "
        "PRO-SCALE."
    )
    places = [(p["gflops_encoder"], p["pq"]) for p in found]
    view = window(places, room=0.17)
    away = [p for p, place in zip(found, places, strict=True) if not view.holds(place)]
    if away:
        caption += " Arrow: a point beyond the axes, its PQ written beside it."
    systems = dict.fromkeys(p["encoder"] for p in sorted(found, key=lambda p: p["gflops_encoder"]))
    with style():
        figure, (axes,) = new_figure(False, 2.65, caption)
        view.show(axes)
        radii = {}
        for p, place in zip(found, places, strict=True):
            area = 300 * p["gflops_total"] / most
            radii[id(p)] = (area / 3.1416) ** 0.5
            if p in away:
                continue
            axes.scatter(
                *place,
                s=area,
                color=colour_of(p["encoder"]),
                alpha=0.45,
                edgecolor=PAGE,
                linewidth=0.6,
            )
            mark(axes, place, look_of(p["encoder"]), area=7, zorder=4)
        axes.set_xlabel("encoder, GMACs")
        axes.set_ylabel("PQ, %")
        axes.grid(True, axis="both")
        legend_above(figure, [key(look_of(s), SYSTEM_TITLES.get(s, s)) for s in systems], 4)
        finish(figure)
        labels = []
        for p, place in zip(found, places, strict=True):
            beyond = ""
            if p in away:
                point_away(axes, view, place, colour_of(p["encoder"]))
                beyond = f": PQ {p['pq']:.2f}"
            labels.append(
                Label(*view.edge(place), _short(p) + beyond, INK, 2.6 if p in away else radii[id(p)])
            )
        place_labels(axes, labels)
    return figure, caption


def configurations_figure(points: Sequence[Point], backbone: str = "swin-t") -> Picture:
    """PQ of PRO-SCALE's configurations by encoder cost, against M2F's line (as the paper's Figure 10)."""
    from matplotlib.lines import Line2D

    groups = _groups(points, backbone)
    caption = (
        f"Backbone {shortened(backbone_title(backbone))}; {_sizes(groups)}. Across: the encoder's GMACs, "
        "measured, convention 'published', batch 1. PQ as printed. Dashed: M2F's PQ; its GMACs are written "
        "below."
    )
    with style():
        figure, panels = new_figure(True, 2.3, caption, len(groups))
        for axes, (dataset, found) in zip(panels, groups.items(), strict=True):
            _draw_configurations(axes, found)
            axes.set_title(DATASET_TITLES[dataset])
            axes.set_xlabel("encoder, GMACs")
        panels[0].set_ylabel("PQ, %")
        line = Line2D([], [], color=M2F.light, linewidth=1.0, linestyle="--", label="M2F's PQ")
        legend_above(figure, [key(PRO_SCALE, "PRO-SCALE (p1,p2,p3)"), line], 2)
        finish(figure)
        for axes, found in zip(panels, groups.values(), strict=True):
            labels = [
                Label(p["gflops_encoder"], p["pq"], f"{_short(p)} {p['pq']:.2f}") for p in _configured(found)
            ]
            line_of = _baseline(found)["pq"]
            place_labels(axes, labels, [[(x, line_of) for x in axes.get_xlim()]])
    return figure, caption


def _configured(found: Sequence[Point]) -> list[Point]:
    return sorted((p for p in found if _short(p) in CONFIGURATIONS), key=lambda p: p["gflops_encoder"])


def _baseline(found: Sequence[Point]) -> Point:
    for p in found:
        if p["label"] == "M2F":
            return p
    raise NothingMatches("nothing matches: the paper has no M2F with this backbone")


def _draw_configurations(axes: Any, found: Sequence[Point]) -> None:
    """One data set's configurations with their PQ, and M2F's line."""
    baseline, shown = _baseline(found), _configured(found)
    axes.scatter(
        [p["gflops_encoder"] for p in shown],
        [p["pq"] for p in shown],
        s=20,
        marker=PRO_SCALE.marker,
        color=PRO_SCALE.light,
        zorder=3,
    )
    axes.axhline(baseline["pq"], color=M2F.light, linewidth=1.0, linestyle="--", zorder=1)
    axes.annotate(
        f"M2F: PQ {baseline['pq']:.2f} at {baseline['gflops_encoder']:.1f} GMACs",
        (0.98, 0.05),
        xycoords="axes fraction",
        ha="right",
        fontsize=6.5,
        color=M2F.light,
        **on_ground(),
    )
    axes.margins(x=0.14, y=0.25)


def stages_figure(points: Sequence[Point], backbone: str = "swin-t") -> Picture:
    """What two more layers in one stage cost and gain over (1,1,1) (the paper's Table 6)."""
    groups = _groups(points, backbone)
    changes = {d: _stage_changes(found) for d, found in groups.items()}
    caption = (
        "Two more layers in stage 1 (stride 32), 2 (and 16) or 3 (and 8) of PRO-SCALE (1,1,1); "
        f"{_sizes(groups)}. GMACs of the "
        "encoder measured, convention 'published', batch 1; PQ as printed. Right: PQ points for each "
        "GMAC added."
    )
    names = ["stage 1\n(3,1,1)", "stage 2\n(1,3,1)", "stage 3\n(1,1,3)"]
    panels_of = (
        ("cost", "GMACs added", "{:.1f}"),
        ("gain", "PQ points gained", "{:.2f}"),
        ("rate", "PQ points per GMAC", "{:.2f}"),
    )
    with style():
        figure, panels = new_figure(True, 1.9, caption, 3)
        for axes, (key, ylabel, form) in zip(panels, panels_of, strict=True):
            for index, (dataset, rows) in enumerate(changes.items()):
                width = 0.8 / len(changes)
                places = [i + (index - (len(changes) - 1) / 2) * width for i in range(3)]
                values = [row[key] for row in rows]
                axes.bar(
                    places,
                    values,
                    width * 0.92,
                    color=DATASET_COLOURS[dataset],
                    label=DATASET_TITLES[dataset],
                )
                for place, value in zip(places, values, strict=True):
                    axes.annotate(
                        form.format(value),
                        (place, value),
                        (0, 2),
                        textcoords="offset points",
                        ha="center",
                        fontsize=6,
                        **on_ground(),
                    )
            axes.set_xticks(range(3), names)
            axes.tick_params(axis="x", length=0)
            axes.set_ylabel(ylabel)
            axes.margins(y=0.15)
        panels[0].legend(loc="upper left", **ground_legend())
        return finish(figure), caption


def _stage_changes(found: Sequence[Point]) -> list[dict[str, float]]:
    by_name = {_short(p): p for p in found}
    for name in ("(1,1,1)", "(3,1,1)", "(1,3,1)", "(1,1,3)"):
        if name not in by_name:
            raise NothingMatches(f"nothing matches: the paper has no PRO-SCALE {name} with this backbone")
    least = by_name["(1,1,1)"]
    rows = []
    for name in ("(3,1,1)", "(1,3,1)", "(1,1,3)"):
        cost = by_name[name]["gflops_encoder"] - least["gflops_encoder"]
        gain = by_name[name]["pq"] - least["pq"]
        rows.append({"cost": cost, "gain": gain, "rate": gain / cost})
    return rows


def backbones_figure(points: Sequence[Point]) -> Picture:
    """From M2F to PRO-SCALE on each backbone: whole-model GMACs against PQ (the paper's tables 5 and 7)."""
    pairs = {dataset: found for dataset in DATASETS if (found := _pairs(points, dataset))}
    if not pairs:
        raise NothingMatches("nothing matches: no backbone has both M2F and PRO-SCALE")
    caption = (
        "Arrows from M2F to PRO-SCALE: (1,1,3) on COCO, (3,3,3) on Cityscapes; %: change of GMACs. GMACs of "
        "the whole model measured at 800x1088 and 1024x2048, convention 'published', batch 1; PQ as printed. "
        "The axis of GMACs is logarithmic."
    )
    with style():
        figure, panels = new_figure(True, 2.5, caption, len(pairs))
        for axes, (dataset, found) in zip(panels, pairs.items(), strict=True):
            _draw_pairs(axes, found)
            axes.set_title(DATASET_TITLES[dataset])
        panels[0].set_ylabel("PQ, %")
        legend_above(figure, [key(M2F, "M2F"), key(PRO_SCALE, "PRO-SCALE")], 2)
        finish(figure)
        for axes, found in zip(panels, pairs.values(), strict=True):
            _name_pairs(axes, found)
    return figure, caption


def _draw_pairs(axes: Any, found: Sequence[tuple[Point, Point]]) -> None:
    """An arrow from each M2F to its PRO-SCALE."""
    for m2f, pro_scale in found:
        start, end = ((p["gflops_total"], p["pq"]) for p in (m2f, pro_scale))
        arrow = {"arrowstyle": "->", "color": "#555555", "linewidth": 1.0, "shrinkA": 3, "shrinkB": 3}
        axes.annotate("", end, start, arrowprops=arrow)
        mark(axes, start, M2F)
        mark(axes, end, PRO_SCALE)
    axes.set_xscale("log")
    _plain_ticks(axes, [p["gflops_total"] for pair in found for p in pair])
    axes.set_xlabel("whole model, GMACs")
    axes.margins(x=0.16, y=0.14)
    axes.grid(True, axis="both")


def _name_pairs(axes: Any, found: Sequence[tuple[Point, Point]]) -> None:
    """The backbone beside each M2F, the saving beside each PRO-SCALE."""
    labels = [Label(a["gflops_total"], a["pq"], backbone_title(a["backbone"])) for a, _ in found]
    for a, b in found:
        change = 100 * (b["gflops_total"] / a["gflops_total"] - 1)
        labels.append(Label(b["gflops_total"], b["pq"], f"{change:.0f} %", FADED_INK))
    place_labels(axes, labels, [[(p["gflops_total"], p["pq"]) for p in pair] for pair in found])


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with a few round numbers written out."""
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = [
        t
        for t in (100, 130, 160, 200, 250, 300, 500, 700, 1000, 1500, 2000, 3000)
        if 0.85 * min(values) <= t <= 1.15 * max(values)
    ]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _pairs(points: Sequence[Point], dataset: str) -> list[tuple[Point, Point]]:
    """M2F and PRO-SCALE on each backbone that the paper has both on."""
    stages = {"coco": "PRO-SCALE (1,1,3)", "cityscapes": "PRO-SCALE (3,3,3)"}[dataset]
    found = []
    for backbone in BACKBONE_TITLES:
        if _has(points, dataset, backbone):
            by_name = {p["label"]: p for p in family(points, dataset, backbone)}
            if "M2F" in by_name and stages in by_name:
                found.append((by_name["M2F"], by_name[stages]))
    return found


def _groups(points: Sequence[Point], backbone: str) -> dict[str, list[Point]]:
    """Data set -> the family on a backbone, where the paper has it."""
    groups = {d: family(points, d, backbone) for d in DATASETS if _has(points, d, backbone)}
    if not groups:
        raise NothingMatches(f"nothing matches: the paper has no model with backbone {backbone}")
    return groups


def _has(points: Sequence[Point], dataset: str, backbone: str) -> bool:
    try:
        return bool(family(points, dataset, backbone))
    except NothingMatches:
        return False


def _short(p: Point) -> str:
    return str(p["label"]).removeprefix("PRO-SCALE ")


def _where(dataset: str, backbone: str, found: Sequence[Point]) -> str:
    return f"{DATASET_TITLES[dataset]} at {found[0]['size']}, {backbone_title(backbone)}."


def _sizes(groups: Mapping[str, Sequence[Point]]) -> str:
    return ", ".join(f"{DATASET_TITLES[d]} at {found[0]['size']}" for d, found in groups.items())

"""Token redundancy in words: a section of Markdown, a table for the terminal, a CSV, the figures by name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segmeter.plain import csv_text, markdown
from segmeter.reports.plots.tokens import (
    RULE_TITLES,
    curves_figure,
    layers_figure,
    maps_figure,
    what_if_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

CSV_COLUMNS = ("place", "scale", "measure", "at", "mean", "std_images")
TITLES = {
    "tokens-curves": "Similarity of tokens against their distance",
    "tokens-maps": "Similarity inside small windows, over the photo",
    "tokens-layers": "Similarity through the encoder's layers",
    "tokens-what-if": "Tokens that could go, and the encoder GMACs that would go with them",
}


def figures(record: Mapping[str, Any]) -> dict[str, "Figure"]:
    """Every figure of a record ``segmeter.tokens/1``; layers only where an encoder ran."""
    drawn = {"tokens-curves": curves_figure(record), "tokens-what-if": what_if_figure(record)}
    if any(example["maps"] for example in record["examples"]):
        drawn["tokens-maps"] = maps_figure(record)
    if len(record["places"]) > 1:
        drawn["tokens-layers"] = layers_figure(record)
    return drawn


def markdown_section(record: Mapping[str, Any], level: int = 2) -> str:
    """What was measured, whether the paper's ordering shows, what could go: Markdown under one heading."""
    head = "#" * level
    lines = [f"{head} Token redundancy", "", *(f"{markdown(line)}\n" for line in source_lines(record))]
    lines += [
        "Cosine similarity of tokens at the backbone. *Next*: the next token in the row-major sequence; "
        "*ring 1*: the neighbours on the map; *2x2*: pairs inside 2x2 windows; *best match*: the most "
        "similar other token; *alike*: tokens whose best match reaches the threshold of "
        f"{record['settings']['threshold']:g}; *rank*: effective rank, of the channels; *clusters*: of the "
        "sampled tokens, at that threshold. ±: over images.",
        "",
        *_markdown_table(("scale", "tokens", *COLUMNS), backbone_rows(record)),
        "",
        f"{head}# Does the paper's ordering show?",
        "",
        *(f"- {markdown(line)}" for line in ordering_lines(record)),
        "",
    ]
    if len(record["places"]) > 1:
        lines += [
            f"{head}# Layer by layer",
            "",
            *_markdown_table(LAYER_COLUMNS, layer_rows(record)),
            "",
            "*Unchanged*: mean similarity of a token to itself before the layer (1: left as it was).",
            "",
        ]
    lines += [
        f"{head}# What if alike tokens were merged?",
        "",
        *(f"{line}\n" for line in what_if_lines(record)),
    ]
    lines += [*_markdown_table(WHAT_IF_COLUMNS, what_if_rows(record)), ""]
    return "\n".join(lines)


COLUMNS = ("next", "ring 1", "2x2", "best match", "alike", "rank", "clusters")
LAYER_COLUMNS = ("place", "scale", "tokens updated", "next", "best match", "rank", "unchanged")
WHAT_IF_COLUMNS = ("encoder", "scale", "rule", "tokens removable", "GMACs saved", "matching costs")


def source_lines(record: Mapping[str, Any]) -> list[str]:
    """Weights, images, what was skipped: what a reader must know first."""
    images, settings = record["images"], record["settings"]
    sizes = ", ".join(f"{size} ({n})" for size, n in list(record["padded_sizes"].items())[:4])
    more = "" if len(record["padded_sizes"]) <= 4 else f" and {len(record['padded_sizes']) - 4} more sizes"
    lines = [f"Backbone {record['backbone']}, weights: {record['weights']['backbone']['text']}."]
    if record["encoder_title"]:
        weights = record["weights"]["encoder"]
        ran = weights["text"] if weights else "none needed: only its cost is counted"
        lines.append(f"Encoder {record['encoder_title']}, weights: {ran}.")
    lines.append(
        f"{len(images)} image{'s' if len(images) != 1 else ''} ({', '.join(i['name'] for i in images[:3])}"
        f"{', ...' if len(images) > 3 else ''}), padded to {sizes}{more}; best matches of "
        f"{settings['sample'] or 'all'} tokens of each map (at most), searched among all."
    )
    if record["interrupted"]:
        lines.append(f"Interrupted: {len(images)} of {record['requested_images']} images were done.")
    if record["skipped"]:
        lines.append(f"Skipped {len(record['skipped'])}: {'; '.join(record['skipped'][:5])}.")
    return lines


def backbone_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each scale at the backbone."""
    settings = record["settings"]
    at = settings["thresholds"].index(settings["threshold"])
    rows: list[tuple[str, ...]] = []
    for scale, found in record["places"][0]["scales"].items():
        rows.append(
            (
                scale,
                f"{found['tokens']:,.0f}",
                _pm(found["sequence"]["mean"][0], found["sequence"]["std_images"][0]),
                _pm(found["rings"]["mean"][0], found["rings"]["std_images"][0]),
                _pm(found["windows"][0]["mean"], found["windows"][0]["std_images"]),
                _pm(found["nearest"]["mean"], found["nearest"]["std_images"]),
                _percent(found["nearest"]["share"][at]),
                f"{_number(found['effective_rank']['mean'], 1)} of {found['channels']}",
                f"{_number(found['clusters']['mean'], 0)} of {found['sampled_tokens']:,.0f}",
            )
        )
    return rows


def ordering_lines(record: Mapping[str, Any]) -> list[str]:
    """Whether each larger scale's curve is above the next smaller one's, with figures."""
    lines = []
    for pair in record["ordering"]:
        near = (
            f", and {pair['above_near']} of the {pair['near']} up to half a row of {pair['smaller']}"
            if pair["near"] < pair["distances"]
            else ""
        )
        curve = "along the sequence" if pair["curve"] == "sequence" else "on the map"
        lines.append(
            f"{pair['larger']} above {pair['smaller']} {curve}: {_verdict(pair['above'], pair['distances'])} "
            f"(at {pair['above']} of {pair['distances']} distances{near}; "
            f"{pair['mean_difference']:+.3f} on average, {pair['at_1']:+.3f} at distance 1)."
        )
    last = record["places"][0]["scales"].get("s4")
    if last is not None and record["ordering"]:
        lines.append(_about_s4(record, last))
    return lines


def what_if_lines(record: Mapping[str, Any]) -> list[str]:
    """What the what-if assumes."""
    found = record["what_if"]
    return [
        f"GMACs at {found['size']}, convention '{found['convention']}', from the counter: the encoder is "
        "counted again with a share of one scale's tokens gone. Assumed: tokens leave before the encoder, so "
        "all that it computes for them goes, the input projection included; a convolution's cost falls with "
        "its tokens, which takes a sparse one; putting tokens back is free. Nothing is said of the accuracy. "
        "*Matching costs* is what finding the matches takes, in GMACs; it is not taken off.",
        f"Rules: {found['rules']['bipartite']} (at most 50 %); {found['rules']['windows']} (at most 75 %). "
        f"Shown at a threshold of {record['settings']['threshold']:g}; the record has all.",
    ]


def what_if_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each encoder, scale and rule, at the settings' threshold."""
    found = record["what_if"]
    at = found["thresholds"].index(record["settings"]["threshold"])
    rows: list[tuple[str, ...]] = []
    for encoder in found["encoders"]:
        whole = encoder["gmacs"]
        for scale, values in encoder["scales"].items():
            for rule, title in RULE_TITLES.items():
                saved, share = values["saved_gmacs"][rule][at], found["removable"][scale][rule][at]
                if not values["curve"]["gmacs"]:
                    said = values["note"]
                elif saved is None:
                    said = "-"
                else:
                    note = f", {values['note']}" if values["note"] else ""
                    said = f"{saved:.2f} of {whole:.2f} ({100 * saved / whole:.1f} %{note})"
                cost = found["removable"][scale]["matching_gmacs"][rule]
                rows.append((encoder["title"], scale, title, _percent(share), said, f"{cost:.3g}"))
    return rows


def layer_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each place and scale."""
    rows: list[tuple[str, ...]] = []
    for place in record["places"]:
        for scale, found in place["scales"].items():
            tokens = place["updated_tokens"]
            rows.append(
                (
                    place["name"],
                    scale,
                    "" if tokens is None else f"{tokens:,.0f} (sees {place['seen_tokens']:,.0f})",
                    _number(found["sequence"]["mean"][0]),
                    _number(found["nearest"]["mean"]),
                    _number(found["effective_rank"]["mean"], 1),
                    _number(found["change"]["mean"]) if found["change"] else "",
                )
            )
    return rows


def tables(record: Mapping[str, Any]) -> list["Table"]:
    """The tables for the terminal."""
    made = [_table("similarity at the backbone", ("scale", "tokens", *COLUMNS), backbone_rows(record))]
    if len(record["places"]) > 1:
        made.append(_table("layer by layer", LAYER_COLUMNS, layer_rows(record)))
    made.append(
        _table(f"what if, at {record['settings']['threshold']:g}", WHAT_IF_COLUMNS, what_if_rows(record))
    )
    return made


def tokens_csv(record: Mapping[str, Any]) -> str:
    """Every figure of every place and scale, one a line: place, scale, measure, at, mean, std_images.

    ``at`` is a distance, a threshold, or empty.
    """
    lines: list[tuple[Any, ...]] = [CSV_COLUMNS]
    thresholds = record["settings"]["thresholds"]
    for place in record["places"]:
        for scale, found in place["scales"].items():
            rows: list[tuple[Any, ...]] = [("tokens", "", found["tokens"], "")]
            for kind in ("sequence", "rings"):
                curve = found[kind]
                rows += [
                    (kind, *row)
                    for row in zip(curve["distance"], curve["mean"], curve["std_images"], strict=True)
                ]
            single = {f"windows_{w['side']}x{w['side']}": w for w in found["windows"]}
            single |= {name: found[name] for name in ("nearest", "bipartite", "effective_rank", "clusters")}
            if found["change"]:
                single["unchanged"] = found["change"]
            for name, value in single.items():
                rows.append((name, "", value["mean"], value["std_images"]))
                if isinstance(value.get("share"), list):
                    shares = zip(thresholds, value["share"], strict=True)
                    rows += [(f"{name}_share", *row, "") for row in shares]
            lines += [(place["name"], scale, *row) for row in rows]
    for encoder in record["what_if"]["encoders"]:
        for scale, values in encoder["scales"].items():
            for rule, saved in values["saved_gmacs"].items():
                lines += [
                    (f"what-if {encoder['encoder']}", scale, f"{rule}_gmacs_saved", at, gmacs, "")
                    for at, gmacs in zip(thresholds, saved, strict=True)
                ]
    return csv_text(lines)


def _verdict(above: int, distances: int) -> str:
    if above in (0, distances):
        return "yes" if above else "no"
    return "mostly" if above > distances / 2 else "mostly not"


def _about_s4(record: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """What s4 does at its own rows' ends, from its two curves."""
    along = last["sequence"]["mean"]
    width = max(int(size.split("x")[1]) // 32 for size in record["padded_sizes"])
    wrapped = along[width - 1] if width <= len(along) else None
    middle = along[width // 2 - 1] if width >= 4 else None
    line = f"s4 is apart: its rows are about {width} tokens long, so the sequence wraps to the next row there"
    if wrapped is not None and middle is not None:
        line += f" (similarity {middle:.3f} half a row away, {wrapped:.3f} a whole row away, one token below)"
    spans = _percent((last["effective_rank"]["mean"] or 0.0) / last["channels"])
    return (
        f"{line}; and it is the last block's map, made for the class rather than the place: its "
        f"{last['tokens']:,.0f} tokens span {spans} of its channels by effective rank, so its level does not "
        "compare with that of earlier blocks."
    )


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(map(markdown, row))} |" for row in rows),
    ]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _pm(mean: float | None, std: float | None) -> str:
    return _number(mean) if std is None else f"{_number(mean)} ± {std:.3f}"

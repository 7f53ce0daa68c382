"""The gate's record as text, Markdown and JSON-free lines. Reads records only."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmeter.plain import markdown, markdown_code, plain
from segmeter.reports.units import amount, percent

HEADINGS = ("figure", "baseline", "now", "change", "limit", "verdict")
SIGNS = {"over": "OVER BUDGET", "within": "within", "uncounted": "NOT COUNTED"}


def verdict_line(verdict: Mapping[str, Any], against: str = "the baseline") -> str:
    """One verdict in one sentence, with its first cause; ``against`` is what the baseline is.

    >>> verdict_line({"what": "total", "status": "over", "now": 3 * 10**9, "before": 2 * 10**9,
    ...     "limit": 2 * 10**9, "unit": "MACs", "causes": [], "detail": ""})
    'total +1.00 GMACs (+50.00 %) since the baseline to 3.00 GMACs, limit 2.00 GMACs'
    """
    if verdict["status"] == "uncounted":
        return plain(f"{verdict['what']} has no formula and is not counted: {verdict['detail']}")
    unit, now, before = verdict["unit"], verdict["now"], verdict["before"]
    text = f"{verdict['what']} "
    if before is not None and before != now:
        text += f"{_signed(now - before, unit)}{_share(now, before)} since {against} to "
    text += amount(now, unit)
    if verdict["limit"] is not None:
        text += f", limit {amount(verdict['limit'], unit)}"
    if verdict["causes"]:
        text += f", because {verdict['causes'][0]['text']}"
    return plain(text)


def text_report(record: Mapping[str, Any]) -> str:
    """What ``segmeter check`` prints: figures, what moved and why, and the outcome."""
    lines: list[str] = []
    for model in record["models"]:
        heading = f"{model['model']} at {model['size']}, {model['convention']} convention"
        lines.append(plain(f"{model['name']}  {heading}"))
        rows = [HEADINGS, *(tuple(map(plain, _cells(v))) for v in model["verdicts"])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
        for row in rows:
            middle = [cell.rjust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True)]
            lines.append("  " + "  ".join([row[0].ljust(widths[0]), *middle, row[5]]).rstrip())
        for verdict in model["verdicts"]:
            if verdict["status"] == "uncounted":
                lines.append(f"  {verdict_line(verdict)}")
        lines += [f"  {line}" for line in change_lines(model)]
        lines.append("")
    lines.append(outcome(record))
    return "\n".join(lines) + "\n"


def change_lines(model: Mapping[str, Any], limit: int = 12) -> list[str]:
    """What changed in a model since the baseline, causes first."""
    changes = model["changes"]
    if not changes:
        return []
    unit = model["unit"].removeprefix("G")
    lines = ["moved since the baseline:"]
    for change in changes[:limit]:
        figures = [_signed(change["work"], unit)] if change["work"] else []
        figures += [f"{change['params']:+,} parameters"] if change["params"] else []
        lines.append(f"  {plain(change['text'])} [{', '.join(figures) or 'no cost'}]")
    if len(changes) > limit:
        lines.append(f"  and {len(changes) - limit} more")
    return lines


def outcome(record: Mapping[str, Any]) -> str:
    """The last line: how many figures of how many models are over."""
    bad = [v for model in record["models"] for v in model["verdicts"] if v["status"] != "within"]
    checked = sum(len(model["verdicts"]) for model in record["models"])
    models = len(record["models"])
    whole = f"{checked} figures of {models} model{'s' if models != 1 else ''}, against {record['against']}"
    if not bad:
        return plain(f"within budget: {whole}")
    return plain(f"over budget: {len(bad)} of {whole}")


def markdown_report(record: Mapping[str, Any]) -> str:
    """A table for a pull request or a job's step summary."""
    lines = [f"### segmeter: {markdown(outcome(record))}", ""]
    for model in record["models"]:
        written = f"{markdown_code(model['model'])} at {markdown(model['size'])}"
        lines += [f"**{markdown(model['name'])}**: {written}", ""]
        lines.append("| " + " | ".join(HEADINGS) + " |")
        lines.append("|---|---:|---:|---:|---:|---|")
        lines += ["| " + " | ".join(markdown(c) for c in _cells(v)) + " |" for v in model["verdicts"]]
        uncounted = [v for v in model["verdicts"] if v["status"] == "uncounted"]
        moved = [verdict_line(v) for v in uncounted] + [c.strip() for c in change_lines(model)[1:]]
        lines += ["", *(f"- {markdown(line)}" for line in moved), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cells(verdict: Mapping[str, Any]) -> Sequence[str]:
    if verdict["status"] == "uncounted":
        return (verdict["what"], "", "unknown", "", "", SIGNS["uncounted"])
    unit, now, before, limit = (verdict[key] for key in ("unit", "now", "before", "limit"))
    return (
        verdict["what"],
        "" if before is None else amount(before, unit),
        amount(now, unit),
        "" if before is None or before == now else _signed(now - before, unit) + _share(now, before),
        "" if limit is None else amount(limit, unit),
        SIGNS[verdict["status"]],
    )


def _signed(value: int, unit: str) -> str:
    return ("-" if value < 0 else "+") + amount(abs(value), unit)


def _share(now: int, before: int) -> str:
    return f" ({percent(100 * (now / before - 1), signed=True)})" if before else ""

"""A small report record, made by hand: two models, five points, three audited cells, and hostile names."""

from typing import Any

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'too' <!-- ]]>"
SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="241.2pt" height="100pt" viewBox="0 0 241.2 100">\n'
    '<metadata>date</metadata><defs><style type="text/css">*{fill: red}</style></defs>\n'
    '<g id="axes_1"><clipPath id="p1"><rect/></clipPath><g clip-path="url(#p1)"><use xlink:href="#axes_1"/>'
    "<text>axis</text></g></g>\n</svg>\n"
)


def point(label: str, encoder: str, gmacs: float | None, pq: float | None, **others: Any) -> dict[str, Any]:
    texts = ("model", "paper", "reference", "command", "note", "total_basis", "speed_basis")
    return {
        **dict.fromkeys(texts, ""),
        **dict.fromkeys(("gflops_total", "fps", "latency_ms", "miou", "ap", "spread")),
        "label": label,
        "encoder": encoder,
        "backbone": "swin-t",
        "dataset": "cityscapes",
        "source": "published",
        "gflops_encoder": gmacs,
        "encoder_basis": "1024x2048",
        "convention": "published",
        "pq": pq,
        **others,
    }


def points() -> list[dict[str, Any]]:
    """By hand: the front of all six at 1024x2048 is A, C and E; B is behind A, D behind C.

    Without pro-scale (A, C) it is D, E and the star, in this order of cost only if none beats another:
    B costs 60 for 59, D 150 for 61, E 280 for 64, own 200 for 60: D beats own; so B, D and E.
    """
    reference = {"reference": "Table 2, row 4", "command": "segmeter flops pro-scale@swin-t"}
    return [
        point("A", "pro-scale", 55.0, 60.0, **reference),
        point("B", "lite-m2f", 60.0, 59.0),
        point("C", "pro-scale", 135.0, 63.0, source="measured", reference="record 7"),
        point("D", "m2f", 150.0, 61.0, source="measured", backbone="r50"),
        point("E", "m2f", 280.0, 64.0),
        point(
            HOSTILE,
            "mine",
            200.0,
            60.0,
            source="own",
            backbone="",
            encoder_basis="own",
            spread={"pq": {"low": 59.5, "high": 60.5, "kind": "3 runs"}},
        ),
        point("F", "m2f", 117.0, 52.0, dataset="coco", encoder_basis="800x1088", fps=5.0),
        point("G", "m2f", 290.0, None),
        point("H", "m2f", 240.0, 62.0, encoder_basis=""),
    ]


def flops_record(encoder: str, title: str, gmacs: float) -> dict[str, Any]:
    def part(amount: float) -> dict[str, Any]:
        return {"gmacs": amount, "parts": {}}

    parts = {"backbone": part(200.0), "encoder": part(gmacs), "decoder": part(55.0), "postprocess": part(5.0)}
    return {
        "schema": "segmeter.flops/1",
        "model": f"{encoder}@swin-t",
        "title": f"{title}, Swin-T",
        "encoder": encoder,
        "encoder_title": title,
        "encoder_options": {},
        "backbone": "swin-t",
        "num_classes": 19,
        "num_queries": 100,
        "convention": "published",
        "convention_text": "as the papers count",
        "unit": "GMACs",
        "total_gmacs": 260.0 + gmacs,
        "components": parts,
        "by_operator": {},
        "not_counted": {"deformable_sampling": 3.17},
        "not_counted_reasons": {"deformable_sampling": "the tool cannot see it"},
        "coverage": 0.98,
        "params": 47_000_000,
        "encoder_params": 5_000_000,
        "size": "1024x2048",
        "padded_size": [1024, 2048],
        "original_size": [1024, 2048],
        "versions": {},
    }


def cell(row: int, printed: str, measured: float | None, verdict: str) -> dict[str, Any]:
    return {
        "table": 2,
        "row": row,
        "model": HOSTILE if row == 3 else f"model {row}",
        "backbone": "swin-t",
        "dataset": "cityscapes",
        "what": "encoder",
        "printed": printed,
        "published_gmacs": float(printed),
        "measured_gmacs": measured,
        "difference_percent": None if measured is None else 0.5,
        "size": "1024x2048",
        "verdict": verdict,
        "print": "",
        "note": "a note",
    }


def report() -> dict[str, Any]:
    verdicts = ("stated size", "solved size", "solved mean", "not reproduced", "not modelled")
    numbers = dict(zip(verdicts, (1, 0, 0, 1, 1), strict=True))
    titles = [("later", "A later finding"), ("two-inputs", "Two inputs"), ("x", HOSTILE), ("y", "Fourth")]
    findings = [
        {"id": ident, "title": title, "text": "One. Two.", "sentences": ["One.", "Two."], "tables": [2]}
        for ident, title in titles
    ]
    forward = {
        "title": "M2F",
        "photo": "own.png",
        "input_size": [256, 352],
        "seconds": 1.5,
        "outputs": {"masks": [1, 100, 256, 352]},
        "weights": "random, seed 0",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    }
    return {
        "schema": "segmeter.report/2",
        "backbone": "swin-t",
        "photos": [{"name": "own.png", "size": [240, 320]}],
        "forward_passes": [forward],
        "records": {
            "cityscapes": [flops_record("m2f", "M2F", 281.13), flops_record("pro-scale", HOSTILE, 55.14)]
        },
        "audit": {
            "counts": {
                "cells": 3,
                "verdicts": numbers,
                "family_cells": 2,
                "family_reproduced": 1,
                "family_consistent": 0,
                "family_distinct": 2,
                "family_distinct_reproduced": 1,
                "family_distinct_consistent": 0,
            },
            "reproduced": ["stated size"],
            "consistent": ["solved size", "solved mean"],
            "chance": {
                "draws": 10,
                "moved_by_percent": [0.5, 20.0],
                "reproduced": 0,
                "consistent": 1,
                "rules": {"solved size, whole": {"text": "", "draws": 4, "reproduced": 0, "consistent": 1}},
            },
            "verdicts": dict.fromkeys(verdicts, "what it means"),
            "cells": [
                cell(1, "281.00", 281.13, "stated size"),
                cell(2, "55.14", 55.4, "not reproduced"),
                cell(3, "1030.5", None, "not modelled"),
            ],
            "percentages": [],
            "fps": [],
            "findings": findings,
        },
        "figures": {"points": points(), "lpe": [{"label": HOSTILE}]},
        "tokens": None,
        "tokens_missing": "no weights at hand",
        "made": "2026-01-02",
        "command": "segmeter report",
        "versions": {"torch": "2.9"},
    }


def page() -> str:
    from segmeter.reports.html.page import report_html

    return report_html(report(), {"lpe": (SVG, "What LPE saves."), "stages": (SVG, HOSTILE)})

"""Changes of several models against the first, as figures."""

from collections.abc import Sequence
from typing import Any

from segmeter.harness.records.flops import FlopsRecord
from segmeter.reports.text.flops import compared_parts, part_figure


def comparison_summary(records: Sequence[FlopsRecord]) -> list[dict[str, Any]]:
    """For each model, the change of each part against the first model, in percent.

    A part that the first model does not have is None.
    """
    first = records[0]
    return [
        {
            "model": record["model"],
            "against": first["model"],
            "percent": {
                part: (
                    100 * (part_figure(record, part) / part_figure(first, part) - 1)
                    if part_figure(first, part)
                    else None
                )
                for part in (*compared_parts(records), "total")
            },
        }
        for record in records
    ]

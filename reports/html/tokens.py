"""The HTML report's section on token redundancy, from a record ``segmeter.tokens/1``."""

from collections.abc import Mapping
from typing import Any

from segmeter.reports.html.parts import Html, join, table, tag
from segmeter.reports.text import tokens


def tokens_answer(record: Mapping[str, Any] | None, reason: str) -> Html:
    """Whether the paper's ordering shows, and what merging would save.

    Args:
        record: of :func:`harness.tokens.run.demo_record`, or None.
        reason: why there is none.
    """
    if record is None:
        return tag("p", f"Not measured: {reason}.")
    rows = [list(row) for row in tokens.what_if_rows(record)]
    return join(
        [
            tag("h3", "Does the paper's ordering show?"),
            tag("ul", *(tag("li", line) for line in tokens.ordering_lines(record))),
            tag("h3", "What if alike tokens were merged?"),
            table("Tokens that could go, and what would go with them", tokens.WHAT_IF_COLUMNS, rows),
        ]
    )


def tokens_section(record: Mapping[str, Any]) -> Html:
    """How it was measured, how alike tokens are at each scale, and how merging was reckoned."""
    similar = table(
        f"Cosine similarity of tokens at the backbone; alike: best match from "
        f"{record['settings']['threshold']:g} on",
        ["scale", "tokens", *tokens.COLUMNS],
        [list(row) for row in tokens.backbone_rows(record)],
    )
    about = [*tokens.source_lines(record), *tokens.what_if_lines(record)]
    return join([*(tag("p", line.replace("*", "")) for line in about), similar])

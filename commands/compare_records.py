"""``compare --from``: measurements of this machine and of others beside each other."""

import sys
from collections.abc import Sequence
from pathlib import Path

from segmeter.commands.console import show, show_json, user_input, warn, whole_record


def compare_records(folder: Path, models: Sequence[str], published: bool, markdown: bool, json: bool) -> None:
    """Print the records of a folder, ratios to the first model, and where environments differ.

    With ``published`` the ratios to M2F stand beside the paper's instead of among themselves.
    """
    from segmeter.harness.records import beside_published, collect, compare_runs

    with user_input():
        runs, damaged = collect(folder)
        for file in damaged:
            warn(f"skipped {file.path}: {file.reason}")
        with whole_record("one of the records"):
            compared = compare_runs(runs, models)
            if published:
                compared["published"] = beside_published(compared)
    if json:
        return show_json(compared)
    from segmeter.reports.text.compare import (
        comparison_markdown,
        comparison_tables,
        environment_lines,
        published_tables,
    )

    with user_input(), whole_record("one of the records"):
        if markdown:
            sys.stdout.write(comparison_markdown(compared) + "\n")
            return
        parts = published_tables(compared) if published else list(comparison_tables(compared))
        lines = environment_lines(compared)
    show(*parts, *lines)

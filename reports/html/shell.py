"""What every page of ours is in: styles, one script, and a policy that lets nothing else run or load."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from segmeter.reports.html.parts import Html, tag

FOOTER = "This page holds all that it shows; it sends nothing and asks for nothing."


def whole_page(title: str, body: Html, scripts: Sequence[str], css: str = "") -> str:
    """A page as one file.

    Args:
        title: of the window.
        body: what it shows, escaped.
        scripts: names of our scripts, in the order in which they run.
        css: rules of its own, after ours.
    """
    script = "\n".join(asset(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Styles may stand in attributes, as matplotlib writes them into its drawings; only our own script runs.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<link rel="icon" href="data:,">\n'
        f"{tag('title', title)}\n<style>\n{asset('report.css')}{css}</style>\n"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}</head>\n<body>\n{body}\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def asset(name: str) -> str:
    """One of our own style sheets or scripts."""
    return (files("segmeter.reports.html") / "assets" / name).read_text(encoding="utf-8")

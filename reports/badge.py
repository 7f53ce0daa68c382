"""A badge: a label and a message on two grounds, as one small SVG file that asks for nothing."""

from segmeter.reports.html.parts import Html, tag

HEIGHT, PADDING = 20, 7
# Widths of letters at 11 px, in pixels: narrow, wide, and all others. The text is then held to its box.
NARROW, WIDE = frozenset(" .,:;!|'ijlIft()[]{}/-"), frozenset("mwMW@%QOGDNHUA")
LABEL, MESSAGE = "#3c4653", "#005a8f"
MOST = 120


def badge_svg(label: str, message: str) -> str:
    """The badge's file.

    Both texts are escaped, and cut beyond reason; the title says them to a screen reader.
    """
    label, message = _cut(label), _cut(message)
    left, right = (_width(text) + 2 * PADDING for text in (label, message))
    whole = f"{label}: {message}"
    boxes = tag(
        "g",
        tag("rect", width=str(left), height=str(HEIGHT), fill=LABEL),
        tag("rect", x=str(left), width=str(right), height=str(HEIGHT), fill=MESSAGE),
        clip_path="url(#corners)",
    )
    texts = tag(
        "g",
        _text(label, PADDING, left - 2 * PADDING),
        _text(message, left + PADDING, right - 2 * PADDING),
        fill="#ffffff",
        font_family="Verdana,DejaVu Sans,Geneva,sans-serif",
        font_size="11",
    )
    clip = tag(
        "clipPath",
        tag("rect", width=str(left + right), height=str(HEIGHT), rx="3", fill="#ffffff"),
        id="corners",
    )
    svg = tag(
        "svg",
        tag("title", whole),
        clip,
        boxes,
        texts,
        xmlns="http://www.w3.org/2000/svg",
        width=str(left + right),
        height=str(HEIGHT),
        viewBox=f"0 0 {left + right} {HEIGHT}",
        role="img",
        aria_label=whole,
    )
    return f"{svg}\n"


def _text(text: str, x: int, width: int) -> Html:
    return tag("text", text, x=str(x), y="14", textLength=str(width), lengthAdjust="spacingAndGlyphs")


def _width(text: str) -> int:
    return round(sum(4.2 if c in NARROW else 9.2 if c in WIDE else 7.0 for c in text)) or 1


def _cut(text: str) -> str:
    return text if len(text) <= MOST else f"{text[: MOST - 1]}…"

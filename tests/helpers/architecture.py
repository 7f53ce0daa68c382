"""The page on the house: its picture and its table, made from the imports.

``python -m tests.helpers.architecture`` writes ``docs/figures/architecture.svg`` and the table in
``docs/architecture.md`` anew; a test says when that is due.
"""

import ast
from html import escape
from statistics import fmean

from tests.helpers import imports
from tests.helpers.places import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
START, END = "<!-- rooms: made from the imports -->", "<!-- end of rooms -->"
# What everything stands on is told in words; arrows to it would hide all others.
GROUND = ("words", "plain", "files", "compiler", "model_text")
LEFT_OUT = {*GROUND, "harness", "results", "segmeter", "ops", "cli", "__main__"}
WIDTH, BOX, HIGH, GAP, STEP = 1240, 118, 34, 18, 86
# Least space between two boxes of a floor.
APART = 8
FILL = {"harness": "#e8eef7", "other": "#fdf1dc"}
INK, LINE = "#1b2a41", "#7b8aa3"


def shown() -> dict[str, set[str]]:
    """Rooms of the picture, and the arrows that no longer way replaces."""
    edges = {
        room: {other for other in others if other not in LEFT_OUT}
        for room, others in imports.rooms().items()
        if room not in LEFT_OUT
    }
    return {room: {o for o in others if not _goes_round(edges, others, o)} for room, others in edges.items()}


def _goes_round(edges: dict[str, set[str]], others: set[str], room: str) -> bool:
    """Whether one of the others leads to a room as well."""
    return room in imports.reached(edges, {beyond for other in others - {room} for beyond in edges[other]})


def floors(edges: dict[str, set[str]]) -> dict[int, list[str]]:
    """Floor -> its rooms, from the ground up."""
    found: dict[int, list[str]] = {}
    for room in sorted(edges):
        found.setdefault(imports.floor(room, edges), []).append(room)
    return dict(sorted(found.items()))


def picture() -> str:
    """The SVG: a box for each room, on the floor that its imports need; an arrow to what it stands on."""
    edges = shown()
    levels = floors(edges)
    height = STEP * (len(levels) - 1) + HIGH + 2 * GAP
    place: dict[str, tuple[float, float]] = {}
    box = min(BOX, (WIDTH - 2 * GAP) / max(map(len, levels.values())) - APART)
    for level, rooms in levels.items():
        if place:
            # Above what they stand on, so that arrows cross little.
            rooms.sort(key=lambda room: (fmean([place[o][0] for o in edges[room]] or [0.0]), room))
        span = (WIDTH - 2 * GAP) / len(rooms)
        for number, room in enumerate(rooms):
            place[room] = (GAP + span * (number + 0.5), height - STEP * (level - 1) - GAP - HIGH)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="DejaVu Sans, Arial, sans-serif" font-size="13">',
        "<title>The rooms of segmeter and what each stands on</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for room in sorted(edges):
        lines += [_arrow(place[room], place[other]) for other in sorted(edges[room])]
    lines += [_box(room, box, *where) for room, where in sorted(place.items())]
    return "\n".join([*lines, "</svg>", ""])


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From the foot of a box to the head of one below, as a curve."""
    (x, y), (to_x, to_y) = start, end
    y += HIGH
    bend = (to_y - y) / 2
    curve = f"M{x:.0f} {y:.0f} C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path d="{curve}" fill="none" stroke="{LINE}" stroke-opacity="0.7"/>'


def _box(room: str, wide: float, x: float, y: float) -> str:
    fill = FILL["harness" if room.startswith("harness.") else "other"]
    text = escape(room.removeprefix("harness."))
    return (
        f'<rect x="{x - wide / 2:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{HIGH}" rx="5" fill="{fill}" '
        f'stroke="{INK}"/>'
        f'<text x="{x:.0f}" y="{y + HIGH / 2 + 5:.0f}" text-anchor="middle" fill="{INK}">{text}</text>'
    )


def page_table() -> str:
    """Each room with what its door says it is, and the rooms that it uses."""
    rooms = imports.rooms()
    rows = ["| room | what it is | uses |", "| --- | --- | --- |"]
    for room in sorted(shown(), key=lambda name: (name.startswith("harness."), name)):
        path = ROOT.joinpath(*room.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
        text = " ".join(docstring.partition("\n\n")[0].split())
        uses = sorted(other.removeprefix("harness.") for other in rooms[room] if other not in LEFT_OUT)
        rows.append(f"| `{room.replace('.', '/')}` | {text.replace('|', '/')} | {', '.join(uses)} |")
    return "\n".join(rows)


def write() -> None:
    """Write the picture, and the page's table."""
    PICTURE.write_text(picture())
    text = PAGE.read_text()
    before, _, rest = text.partition(START)
    PAGE.write_text(f"{before}{START}\n\n{page_table()}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    write()

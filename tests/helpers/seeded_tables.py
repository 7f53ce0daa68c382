"""Tables in which all fits, one planted fault of every rule, and the styles that people write tables in."""

import random
import re
from collections.abc import Callable
from typing import Any

HEADER = (
    *("model", "size", "params (M)", "backbone GMACs", "decoder GMACs", "total GMACs", "total GFLOPs"),
    *("FPS", "latency (ms)", "memory (MB)", "mIoU", "change of total GMACs (%)", "baseline"),
)
CONTEXT = '+++\ndevice = "A100"\ndtype = "fp32"\nbatch = 1\nunit = "MACs"\n+++\n'
Rows = list[dict[str, Any]]
SEEDS = range(20)


def clean_table(seed: int) -> Rows:
    """A table in which all fits: models of growing size, printed to one decimal."""
    chance = random.Random(seed)
    rows: Rows = []
    first = 0.0
    scale = 1.0
    for n in range(chance.randint(4, 9)):
        scale *= chance.uniform(1.2, 1.6)
        backbone, decoder = round(40 * scale, 1), round(15 * scale, 1)
        total = round(backbone + decoder, 1)
        first = first or total
        ms = round(6 * scale, 1)
        rows.append(
            {
                "model": f"Net-{n}",
                "size": "512x512",
                "params (M)": round(20 * scale, 1),
                "backbone GMACs": backbone,
                "decoder GMACs": decoder,
                "total GMACs": total,
                "total GFLOPs": round(2 * total, 1),
                "FPS": round(1000 / ms, 1),
                "latency (ms)": ms,
                "memory (MB)": round(900 * scale),
                "mIoU": round(38 + 2 * n + chance.random(), 1),
                "change of total GMACs (%)": round(100 * (total / first - 1), 1) if n else "-",
                "baseline": "Net-0" if n else "-",
            }
        )
    rows[-1]["mIoU"] = f"**{rows[-1]['mIoU']}**"
    return rows


def written(rows: Rows, context: str = CONTEXT) -> str:
    header = list(rows[0])
    lines = [",".join(header), *(",".join(str(row[name]) for name in header) for row in rows)]
    return context + "\n".join(lines) + "\n"


def doubled(row: dict[str, Any]) -> None:
    for part in ("backbone GMACs", "decoder GMACs", "total GMACs", "total GFLOPs"):
        row[part] = round(2 * row[part], 1)


def plant_two(rows: Rows) -> None:
    again = {**rows[1], "size": "512x512 "}
    doubled(again)
    rows.insert(2, again)


def plant_batch(rows: Rows) -> None:
    for row in rows:
        row["batch"] = 1
    again = {**rows[1], "batch": 4}
    for part in ("backbone GMACs", "decoder GMACs", "total GMACs", "total GFLOPs"):
        again[part] = round(4 * again[part], 1)
    rows.append(again)


def plant_pixels(rows: Rows) -> None:
    rows.append({**rows[1], "size": "1024x1024", "total GMACs": round(rows[1]["total GMACs"] / 2, 1)})


def plant_part(rows: Rows) -> None:
    for row in rows:
        del row["decoder GMACs"]
    rows[1]["backbone GMACs"] = round(rows[0]["backbone GMACs"] - 10, 1)
    rows[1]["total GMACs"] = round(rows[0]["total GMACs"] - 2, 1)


def plant_sizes(rows: Rows) -> None:
    for row in rows:
        row["FPS @256"] = row.pop("FPS")


def plant_unread(rows: Rows) -> None:
    rows[1]["FPS"] = "=1+1"


def plant_marks(rows: Rows) -> None:
    rows[1]["FPS"] = f'"{str(rows[1]["FPS"]).replace(".", ",")}"'


def setter(column: str, value: Callable[[Rows], Any], at: int = 1) -> Callable[[Rows], None]:
    def plant(rows: Rows) -> None:
        rows[at][column] = value(rows)

    return plant


FAULTS: dict[str, Callable[[Rows], None]] = {
    "impossible": setter("mIoU", lambda rows: 104.2),
    "change": setter("change of total GMACs (%)", lambda rows: rows[1]["change of total GMACs (%)"] + 3),
    "speed": setter("FPS", lambda rows: round(rows[1]["FPS"] * 1.4, 1)),
    "sum": setter("backbone GMACs", lambda rows: round(rows[1]["backbone GMACs"] * 1.1, 1)),
    "units": setter("total GFLOPs", lambda rows: rows[1]["total GMACs"]),
    "repeat": lambda rows: rows.append({**rows[1], "params (M)": rows[1]["params (M)"] + 2}),
    "best": setter("mIoU", lambda rows: 99.9, at=0),
    "unread": plant_unread,
    "marks": plant_marks,
    "ragged": lambda rows: rows[1].update({"baseline": "Net-0,extra"}),
    "mixed": setter("size", lambda rows: "640x640"),
    "sizes": plant_sizes,
    "two": plant_two,
    "batch": plant_batch,
    "peak": lambda rows: rows[1].update({"FPS": 50000.0, "latency (ms)": 0.02}),
    "memory": setter("memory (MB)", lambda rows: round(rows[1]["params (M)"] * 3)),
    "pixels": plant_pixels,
    "part": plant_part,
}
# A rule of two kinds of faults: the same name, another plant.
MORE_FAULTS: dict[str, tuple[str, Callable[[Rows], None]]] = {
    "memory in MB under a header of GB": (
        "memory",
        lambda rows: [row.update({"memory (GB)": row.pop("memory (MB)") * 10}) for row in rows] and None,
    ),
    "a mark without a note": ("missing", setter("FPS", lambda rows: f"{rows[1]['FPS']}†")),
}


def _cells(rows: Rows) -> list[list[str]]:
    """The header and the rows, as text without a CSV's quotes."""
    return [list(rows[0]), *([str(row[name]).strip('"') for name in rows[0]] for row in rows)]


def _bold(text: str, mark: str) -> str:
    return mark.format(text.strip("*")) if text.startswith("**") else text


def _csv(rows: list[list[str]], mark: str = ",") -> str:
    return "\n".join(mark.join(f'"{x}"' if mark in x else x for x in row) for row in rows) + "\n"


def _markdown(rows: Rows) -> str:
    header, *others = (f"| {' | '.join(row)} |" for row in _cells(rows))
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others]) + "\n"


def _latex(rows: Rows) -> str:
    header, *others = (
        [_bold(x, "\\textbf{{{}}}").replace("%", "\\%").replace("†", "$^\\dagger$") for x in row]
        for row in _cells(rows)
    )
    stacked = ["\\makecell{" + name.replace(" (", "\\\\(") + "}" for name in header]
    lines = [" & ".join(row) + " \\\\" for row in (stacked, *others)]
    body = "\n".join([lines[0] + " \\midrule", *lines[1:]])
    shape = "l" * len(header)
    return f"\\begin{{table}}\n\\begin{{tabular}}{{{shape}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"


def _html(rows: Rows) -> str:
    lines = ("".join(f"<td>{_bold(x, '<b>{}</b>')}</td>" for x in row) for row in _cells(rows))
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _decimal_commas(rows: Rows) -> str:
    header, *others = _cells(rows)
    others = [[x.replace(".", ",") if re.fullmatch(r"[*\d.†]+", x) else x for x in row] for row in others]
    return _csv([header, *others], ";")


def _units_below(rows: Rows) -> str:
    header, *others = _cells(rows)
    unit = re.compile(r" (\((?:M|ms|MB|GB|%)\))$")
    below = [found[1] if (found := unit.search(name)) else "" for name in header]
    return _csv([[unit.sub("", name) for name in header], below, *others])


def _on_its_side(rows: Rows) -> str:
    return _csv([list(column) for column in zip(*_cells(rows), strict=True)])


# Style -> a file's name and how the rows are written in it.
STYLES: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "Markdown": ("t.md", _markdown),
    "LaTeX": ("t.tex", _latex),
    "HTML": ("t.html", _html),
    "decimal commas": ("t.csv", _decimal_commas),
    "units below": ("t.csv", _units_below),
    "on its side": ("t.csv", _on_its_side),
}

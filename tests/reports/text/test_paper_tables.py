"""The paper's tables in every format say the same figures, and LaTeX takes them."""

import csv
import html.parser
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.audit.paper_tables import table_data
from segmeter.harness.audit.reproduce import reproduced_cells, reproduced_speeds, reproduction_row
from segmeter.harness.audit.tables import TABLES
from segmeter.plain import latex
from segmeter.reports.text.paper_tables import header, render, terminal_table
from segmeter.reports.text.reproduce import reproduction_text

DOCUMENT = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"


@pytest.fixture(scope="module")
def six() -> dict[str, Any]:
    return table_data(6)


def rows_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for block in data["blocks"] for row in block["rows"]]


def test_table_6_has_the_papers_rows_with_measured_figures(six: dict[str, Any]) -> None:
    assert [(b["title"], len(b["rows"])) for b in six["blocks"]] == [
        ("Cityscapes, Swin-T", 5),
        ("COCO, Swin-T", 5),
    ]
    row = rows_of(six)[3]
    assert (row["model"], row["pq"]) == ("PRO-SCALE (1,3,1)", 61.63)
    assert row["encoder"]["printed"] == 69.62 and row["encoder"]["change"] == -75.22
    # FACTS, section 2: measured figures round to the printed ones at Cityscapes' size.
    assert row["encoder"]["measured"] == pytest.approx(69.62, abs=0.005)
    assert row["total"]["measured"] == pytest.approx(326.3, abs=0.05)
    # FACTS, section 3: (1,3,1)'s 32.29 on COCO is for 800x1216, (1,1,1)'s 22.89 for 800x1088.
    sizes = {row["model"]: row["encoder"]["size"] for row in rows_of(six)[5:]}
    assert sizes["PRO-SCALE (1,3,1)"] == "800x1216" and sizes["PRO-SCALE (1,1,1)"] == "800x1088"


def test_table_2_marks_what_the_audit_says_of_other_systems_too() -> None:
    data = table_data(2)
    rows = rows_of(data)
    assert len(rows) == 13
    remax = next(row for row in rows if row["model"] == "ReMaX")
    assert remax["total"]["printed"] == 294.7 and remax["total"]["verdict"] == "not reproduced"
    assert remax["encoder"] is None and remax["miou"] is None
    markdown = render({**data, "blocks": [{"title": "R50", "rows": [remax]}]}, "md")
    assert "| ReMaX | R50 | 65.40 | - | - | 294.70 | -43.77 % | 372.30 ! | - | - | - | - |" in markdown


def test_csv_reads_back(six: dict[str, Any]) -> None:
    read = list(csv.DictReader(io.StringIO(render(six, "csv"))))
    assert len(read) == 10
    assert float(read[0]["encoder_measured"]) == rows_of(six)[0]["encoder"]["measured"]
    assert read[0]["encoder_change"] == "" and read[0]["encoder_verdict"] == "stated size"


def test_every_format_has_every_row_and_figure(six: dict[str, Any]) -> None:
    for kind in ("md", "csv", "latex", "html"):
        text = render(six, kind)
        for wanted in ("PRO-SCALE (1,1,3)", "79.49", "118.07", "Cityscapes, Swin-T"):
            assert wanted in text, kind
    table = terminal_table(six)
    assert len(table.columns) == len(header(six)) == 12 and table.row_count == 12


class Counter(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.cells.append(0)
        if tag in ("th", "td"):
            self.cells[-1] += int(dict(attrs).get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed_and_rectangular(six: dict[str, Any]) -> None:
    counter = Counter()
    counter.feed(render(six, "html"))
    assert counter.open == [] and set(counter.cells) == {len(header(six))}


def test_latex_escapes_what_latex_reads() -> None:
    assert latex("a_b & 50% #1 ${x}") == r"a\_b \& 50\% \#1 \$\{x\}"
    assert latex("~^") == r"\textasciitilde{}\textasciicircum{}"
    assert latex("\\<>") == r"\textbackslash{}\textless{}\textgreater{}"


def test_latex_takes_names_that_it_would_stumble_over(tmp_path: Path) -> None:
    engine = next((name for name in ("pdflatex", "tectonic") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("no pdflatex and no tectonic is installed")
    row = {
        **{"row": 1, "model": r"My_net & 50% #1 ${x}~^\<>", "backbone": "r_50", "dataset": "coco"},
        **{"pq": 1.0, "miou": None, "ap": 2.0, "encoder": None},
        "total": {"printed": 1.0, "change": -50.0, "measured": 1.1, "size": "", "verdict": "", "note": ""},
    }
    data = {
        "table": 1,
        "title": TABLES[1],
        "source": "PRO_SCALE, Table 1",
        "method": "50 % of_all",
        "metrics": {"pq": "PQ", "miou": "mIoU", "ap": "AP"},
        "costs": ["total", "encoder"],
        "blocks": [{"title": "COCO & more", "rows": [row]}],
    }
    (tmp_path / "table.tex").write_text(DOCUMENT % render(data, "latex"))
    options = ["-interaction=nonstopmode", "-halt-on-error"] if engine == "pdflatex" else []
    done = subprocess.run([engine, *options, "table.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_a_real_table_compiles_and_fits(six: dict[str, Any], tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex is installed")
    wide = DOCUMENT.replace("{article}", "{article}\\usepackage[margin=2cm]{geometry}")
    (tmp_path / "table.tex").write_text(wide % render(six, "latex"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_a_table_has_the_columns_that_the_paper_prints() -> None:
    names = {table: table_data(table) for table in (3, 9, 10, 11)}
    assert header(names[3])[2:5] == ("PQ", "FPS", "encoder printed") and names[3]["costs"] == ["encoder"]
    # No cost is printed in Table 9; both are counted.
    assert header(names[9])[2:4] == ("PQ", "FPS") and names[9]["costs"] == ["total", "encoder"]
    assert header(names[10])[2:4] == ("PQ", "PQ, ADE20K")
    first = rows_of(names[10])[0]
    assert (first["pq"], first["pq_ade20k"], first["total"]["printed"]) == (29.98, 15.12, 549.2)
    assert header(names[11])[2:4] == ("mask AP", "box AP")


@pytest.mark.parametrize("table", [3, 8, 9, 10])
def test_the_tables_of_other_columns_compile_and_fit(table: int, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex is installed")
    wide = DOCUMENT.replace("{article}", "{article}\\usepackage[margin=2cm]{geometry}")
    rows = [reproduction_row(a) for a in reproduced_cells([table])]
    cells = reproduction_text(rows, reproduced_speeds([table]), {}, "latex")
    (tmp_path / "table.tex").write_text(wide % (render(table_data(table), "latex") + cells))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_reproduced_cells_in_every_form_have_every_figure() -> None:
    rows = [reproduction_row(a) for a in reproduced_cells([11])]
    for kind in ("md", "csv", "latex"):
        text = reproduction_text(rows, [], {"solved size": "met at a real image's size"}, kind)
        assert "203.8" in text and "maskdino" in text, kind
    read = list(csv.DictReader(io.StringIO(reproduction_text(rows, [], {}, "csv"))))
    assert [float(r["measured_gmacs"]) for r in read] == [r["measured_gmacs"] for r in rows]
    speeds = reproduction_text([], reproduced_speeds([9]), {}, "md")
    assert "| 9 | 2 | pem, r50 |" in speeds.replace(":--", "") and "7.31" in speeds


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of md, csv, latex, html"):
        render({}, "pdf")

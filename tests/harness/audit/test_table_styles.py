"""Tables in the styles that papers and READMEs use: what is read of them, and the faults planted in each."""

from pathlib import Path
from typing import Any

import pytest

from segmeter.harness.audit import audit_comparisons, read_comparisons
from segmeter.harness.audit.comparisons.table import CONTRADICTION, SUSPICIOUS, Table

MULTIROW = r"""\begin{table*}
\caption{At $512\times512$; FPS on one A100, batch size 1, fp32.}
\resizebox{\linewidth}{!}{\begin{tabular}{@{}llccc@{}}
\toprule
\multirow{2}{*}{Method} & \multirow{2}*{Backbone} & \multicolumn{2}{c}{Efficiency} & \multirow{2}{*}{mIoU} \\
\cmidrule(lr){3-4}
 & & Params (K) $\downarrow$ & FPS $\uparrow$ & \\
\midrule
\multirow{2}{*}{UPerNet~\cite{x}} & R50 & 66500 & 23.1 & 42.1 \\
 & Swin-T & 59900 & 20.2 & 44.5 \\
\midrule
\multirow{2}{*}{\textbf{Ours}} & R50 & \textbf{41200} & \textbf{41.3} & 44.9 \\
 & Swin-T & 44700 & 38.5 & \textbf{44.2} \\
\bottomrule
\end{tabular}}
\end{table*}
"""
STACKED = r"""\begin{tabular}{lcc}
Model & \begin{tabular}[c]{@{}c@{}}Params\\ (M)\end{tabular} & \makecell{Latency\\(ms)} & FPS \\ \hline
\multicolumn{4}{c}{\emph{small}} \\
\bf A & {\bf 10.5} & $12.5_{\pm 0.2}$ & 80.0{\scriptsize$\pm$0.4} \\
B & \textcolor{red}{20.5} & 20.0 & 90.0$^{1}$ \\
\end{tabular}
"""
NOTES = r"""\begin{table}
\begin{tabular}{lcc}
Network & GFLOPs\textsuperscript{*} & FPS\tnote{\dag} & Memory \\ \hline
A & 110.5 & 56.0$^\ddagger$ & 2\,150 MB \\
B & 1{,}235.2 & 58.2 & 1.2 GB \\
\end{tabular}
\footnotesize $^*$ at $1024\times2048$. $^\dagger$ on an RTX 3090. $^\ddagger$ on a V100.
\end{table}
\begin{table}\caption{Others, at $640\times640$.}
\begin{tabular}{lc}Network & GMACs\\ C & 10.5\\ D & -1\\ \end{tabular}\end{table}
"""
# Name -> file's name, text, (row, column) -> value read, rules of what is not right.
STYLES: dict[str, tuple[str, str, dict[tuple[int, int], float], set[str]]] = {
    "multirow": ("t.tex", MULTIROW, {(0, 2): 66.5, (3, 4): 44.2}, {"best"}),
    "stacked": ("t.tex", STACKED, {(0, 1): 10.5, (0, 2): 12.5, (1, 3): 90.0}, {"speed"}),
    "notes": ("t.tex", NOTES, {(0, 3): 2150.0, (1, 1): 1235.2}, {"impossible", "mixed"}),
    "units below": (
        "t.csv",
        "Method,Size,Params,Speed,Memory\n,(px),(M),(FPS),(GB)\nA,512x512,13.7,61.1,1.9\nB,512x512,27.5,9.5,0.02\n",
        {(0, 4): 1900.0, (1, 3): 9.5},
        {"memory"},
    ),
    "merged in a spreadsheet": (
        "t.csv",
        "Method,GMACs,,,Quality\n,backbone,head,total,mIoU\nA,4.1,1.5,5.6,44.0\nB,3.2,1.5,4.7,43.1\nC,2.1,1.5,4.1,42\n",
        {(0, 3): 5.6},
        {"sum"},
    ),
    "on its side": (
        "t.md",
        "||A|B|C|\n|-|-|-|-|\n|Params (M)|13|27|84|\n|FPS|61.1|23.3|13.5|\n|Latency (ms)|16.4|42.9|90.0|\n",
        {(2, 1): 84},
        {"speed"},
    ),
    "name printed once": (
        "t.csv",
        "Model,Backbone,Params (M),mIoU\nA,R50,40.1,41\n,Swin-T,45.0,43\nB,R50,30.1,40\n,Swin-T,35.0,142\n",
        {(3, 2): 35.0},
        {"impossible"},
    ),
    "arrows and factors": (
        "t.md",
        "|Model|GFLOPs ↓|Δ GFLOPs (%)|FPS ↑|Speedup|\n|-|-|-|-|-|\n|A|109.8|-|24.9|1.0\u00d7|\n"
        "|+B|76.9|↓30.0|33.1|1.33\u00d7|\n|+C|66.3|↓39.6|41.0|1.95\u00d7|\n",
        {(1, 2): -30.0, (2, 4): 1.95},
        {"change"},
    ),
    "changes without a unit in the header": (
        "t.md",
        "|Method|GFLOPs|Reduction|FPS|Gain|\n|-|-|-|-|-|\n|A|100|-|20|-|\n|B|80|20%|25|25%|\n|C|50|40%|40|2.0x|\n",
        {(1, 2): 20.0, (2, 4): 2.0},
        {"change"},
    ),
    "two figures a cell": (
        "t.csv",
        "Method,Params(M)/FLOPs(G),mIoU (SS/MS),FPS\nA,27.5/62.4,46.5/**47.5**,23\nB,47.3/79.0,49.4/50.0,0\n",
        {(0, 1): 27.5, (0, 2): 62.4, (0, 4): 47.5},
        {"best", "impossible"},
    ),
    "changes in brackets": (
        "t.md",
        "Model | FLOPs | Latency | mIoU\n:-|-:|-:|-:\nA¹ | 125.5 G | 65.8 ms | 76.2\n"
        "[B](u) [[code](z)] | 85.1 G (↓32.2%) | 40.1 ms (1.64\u00d7) | 76.3 (+0.4)\n",
        {(0, 1): 125.5, (1, 2): 40.1},
        {"change"},
    ),
    "decimal commas": (
        "t.csv",
        "Modell;GMACs;Latenz (ms);FPS\nA;41,2;12,5;80,0\nB;1.262,9;20,0;30,0\n",
        {(0, 1): 41.2, (1, 1): 1262.9},
        {"speed"},
    ),
    "batches below a latency, changes in brackets alone": (
        "t.tex",
        "\\begin{tabular}{lrrrr} & \\multicolumn{2}{c}{Latency (ms)} & GFLOPs & $\\Delta$ (\\%) \\\\\n"
        "Model & 1 & 8 & & \\\\ \\midrule A & 10.1 & 40.2 & 100 & --\\\\ B & 0 & 44.2 & 80 & (-20)\\\\\n"
        "C & 12.1 & 44.2 & 60 & ($-$30)\\\\ \\end{tabular}",
        {(0, 1): 10.1, (0, 2): 40.2, (1, 4): -20.0},
        {"impossible", "change"},
    ),
    "seconds an image": (
        "t.html",
        "<table><tr><th>Name<th>inference<br>time (s/im)<th>FPS</tr><tr><td>A<td>0.043<td>23.3</tr>"
        "<tr><td>B<td>0.056<td>17.9</tr><tr><td>C<td>0.103<td>19.7</tr></table>",
        {(0, 1): 43.0},
        {"speed"},
    ),
}  # fmt: skip


def read(tmp_path: Path, name: str, text: str) -> tuple[list[Table], dict[str, Any]]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    tables = read_comparisons([path])
    return tables, audit_comparisons(tables)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_read_and_its_fault_alone_is_found(style: str, tmp_path: Path) -> None:
    name, text, figures, rules = STYLES[style]
    tables, record = read(tmp_path, name, text)
    of = {(row, column): tables[0].rows[row].figures[column].value for row, column in figures if figures}
    assert of == pytest.approx(figures)
    told = [one for one in record["findings"] if one["sure"] in (CONTRADICTION, SUSPICIOUS)]
    assert {one["rule"] for one in told} == rules
    assert "unread" not in {one["rule"] for one in record["findings"]}


def test_names_reach_over_the_rows_of_multirow(tmp_path: Path) -> None:
    (table,), _ = read(tmp_path, "t.tex", MULTIROW)
    assert [row.who for row in table.rows] == ["UPerNet R50", "UPerNet Swin-T", "Ours R50", "Ours Swin-T"]
    assert [row.line for row in table.rows] == [9, 10, 12, 13]
    assert table.columns[2].header == "Efficiency Params (K) ↓"


def test_an_authors_own_macros_are_what_they_stand_for(tmp_path: Path) -> None:
    text = (
        "\\newcommand{\\ours}{Net-X\\xspace}\\newcommand{\\best}[1]{\\textbf{#1}}\n"
        "\\begin{tabular}{lcc}\nModel & GMACs & mIoU \\\\\nA & 10.5 & 45.1 \\\\\n"
        "\\ours{} (big) & 20.5 & \\best{44.1} \\\\\n\\theirs & 9.5 & 40.2 \\\\\n\\end{tabular}\n"
    )
    (table,), record = read(tmp_path, "t.tex", text)
    assert [row.model for row in table.rows] == ["A", "Net-X (big)", "theirs"]
    assert [row.line for row in table.rows] == [4, 5, 6]
    assert {one["rule"] for one in record["findings"] if one["sure"] == SUSPICIOUS} == {"best"}


def test_a_headers_mark_and_a_cells_mark_have_their_notes(tmp_path: Path) -> None:
    tables, _ = read(tmp_path, "t.tex", NOTES)
    first, second = tables[0].rows
    cost, speed = tables[0].columns[1:3]
    assert (cost.header, speed.header) == ("GFLOPs", "FPS")
    assert tables[0].context(first, cost, "size") == (1024, 2048)
    assert [tables[0].context(row, speed, "device") for row in (first, second)] == ["V100", "RTX 3090"]
    # Each table has its own float's caption.
    assert tables[1].noted == {"size": (640, 640)}


def test_rows_of_one_name_that_differ_all_over_are_other_settings(tmp_path: Path) -> None:
    """Not one cell printed twice: what tells them apart has no column."""
    _, record = read(
        tmp_path, "t.csv", "model,GMACs,FPS,mIoU\nA,10.5,20,40.1\nA,20.5,12,42.2\nB,9.5,30,39.0\n"
    )
    assert "repeat" not in {one["rule"] for one in record["findings"]}
    _, record = read(
        tmp_path, "t.csv", "model,GMACs,FPS,mIoU\nA,10.5,20,40.1\nA,20.5,20,40.1\nB,9.5,30,39.0\n"
    )
    assert "repeat" in {one["rule"] for one in record["findings"]}


def test_a_row_wholly_in_bold_may_be_the_authors_own(tmp_path: Path) -> None:
    _, record = read(tmp_path, "t.csv", "model,GMACs,mIoU\nA,10.5,41.1\n**B**,**9.5**,**40.2**\n")
    (one,) = [one for one in record["findings"] if one["rule"] == "best"]
    assert one["sure"] == "cannot be known" and one["arithmetic"] == "41.1 against 40.2"


def test_height_and_width_in_either_order_are_one_size(tmp_path: Path) -> None:
    _, record = read(tmp_path, "t.csv", "model,size,GMACs\nA,1024x2048,41.1\nB,2048x1024,40.2\n")
    assert "mixed" not in {one["rule"] for one in record["findings"]}

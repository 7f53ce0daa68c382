"""What the README shows is what happens: every console line is in the command's output."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = {
    example.split("\n", 1)[0].removeprefix("$ segmeter "): example.split("\n")[1:]
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for example in re.split(r"\n(?=\$ )", block.strip())
}


@pytest.mark.parametrize("command", EXAMPLES)
def test_a_shown_command_prints_the_shown_lines(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *shlex.split(command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    for line in EXAMPLES[command]:
        if line.strip():
            assert line.rstrip() in done.stdout, line


def test_the_readme_teaches_in_order() -> None:
    headings = re.findall(r"^## (.*)$", README, re.M)
    wanted = ["Two commands", "Reading the numbers", "Licence"]
    assert [h for h in headings if h in wanted] == wanted


def test_links_and_pictures_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_number_of_cells_in_the_readme_is_the_number_of_cells() -> None:
    from harness.published import family_cells

    assert f"{len(family_cells())} published GFLOPs cells" in README


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target

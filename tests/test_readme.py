"""What the README shows is what happens: every console line is in the command's output."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.in_process import here
from tests.helpers.places import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = {
    example.split("\n", 1)[0].removeprefix("$ segmeter "): example.split("\n")[1:]
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for example in re.split(r"\n(?=\$ )", block.strip())
}


@pytest.mark.parametrize("command", EXAMPLES)
def test_a_shown_command_prints_the_shown_lines(command: str, tmp_path: Path) -> None:
    done = here(*shlex.split(command))
    assert done.returncode == 0, done.stderr
    for line in EXAMPLES[command]:
        if line.strip():
            assert line.rstrip() in done.stdout, line


def test_the_readmes_own_encoder_counts(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# mine.py\n(.*?)```", README, re.S)
    (tmp_path / "mine.py").write_text(code)
    done = here("flops", "mine.py:MyEncoder", "--backbone", "r50", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    encoder = json.loads(done.stdout)["components"]["encoder"]["gmacs"]
    # 256x512 pixels of 256 channels, and a quarter of the pixels of twice the channels at each level down.
    assert encoder == pytest.approx(256 * 512 * 256 * 256 * (1 + 1 / 2 + 1 / 4 + 1 / 8) / 1e9)


def test_the_readmes_budget_holds_its_own_encoder(tmp_path: Path) -> None:
    for name, language in (("mine.py", "python"), ("budgets.toml", "toml")):
        (text,) = re.findall(rf"```{language}\n# {re.escape(name)}\n(.*?)```", README, re.S)
        (tmp_path / name).write_text(text)
    done = here("check", "budgets.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_screen_tells_what_it_is_shows_it_and_installs_it() -> None:
    first = README[: README.index("## What it answers")]
    assert len(first.splitlines()) <= 45
    assert (
        first.index("```console\n$ segmeter flops") < first.index("## Install") < first.index("pip install .")
    )
    assert "CPU build" in first and "GB" in first


def test_a_shown_table_has_its_header() -> None:
    for lines in EXAMPLES.values():
        if any(line.startswith("│") for line in lines):
            (header,) = (line for line in lines if line.startswith("┃"))
            cells = {line.count("│") for line in lines if line.startswith("│")}
            assert cells == {header.count("┃")}, header


COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        # Every fence is matched with its own end, whatever its language.
        for _, block in re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
        for line in block.split("\n")
        if line.startswith("segmeter ")
    }
)


def test_commands_are_found() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} >= {"plot", "tokens", "check", "profile", "evaluate"}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_named_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    # A group's command is two words, as in `op build`.
    groups = {"op", "results", "datasets", "baseline", "card"}
    command = words[: 2 if words[0] in groups else 1]
    done = here(*command, "--help")
    assert done.returncode == 0, done.stderr
    for word in words:
        if word.startswith("--"):
            assert word in done.stdout, word


def test_the_readme_teaches_in_order() -> None:
    headings = re.findall(r"^## (.*)$", README, re.M)
    wanted = [
        "Two commands",
        "Reading the numbers",
        "Bring your own encoder",
        "A gate on FLOPs",
        "GPU and the op",
    ]
    assert [h for h in headings if h in wanted] == wanted


def test_links_and_pictures_lead_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for target in re.findall(r'(?:src|srcset)="([^"]+)"', prose):
        assert (ROOT / target).exists(), target


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target

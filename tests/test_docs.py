"""The pages of docs/: links lead somewhere, commands and their options exist, tables are whole."""

import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.in_process import here
from tests.helpers.places import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
GROUPS = {"op", "results", "datasets", "baseline", "card"}
SUBCOMMANDS = {"build", "bench", "hub", "list", "show", "diff", "export", "check", "update", "verify"}


def commands(page: Path) -> set[tuple[str, ...]]:
    """Each shown command as its name and the options that it is given."""
    found = set()
    for line in page.read_text().replace("\\\n", "").splitlines():
        if match := re.match(r"(?:    |\$ )?segmeter (.*)", line):
            words = shlex.split(match[1], comments=True)
            name = words[: 2 if words[0] in GROUPS and words[1] in SUBCOMMANDS else 1]
            found.add((*name, *sorted({word for word in words if word.startswith("--")})))
    return found


SHOWN = sorted({command for page in PAGES for command in commands(page)})


def test_commands_are_found() -> None:
    assert {command[0] for command in SHOWN} >= {"card", "evaluate", "flops", "plot", "sweep", "tokens"}


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_a_shown_command_has_the_options_that_it_is_shown_with(command: tuple[str, ...]) -> None:
    options = [word for word in command if word.startswith("--")]
    words = [word for word in command if not word.startswith("--")]
    # `card MODEL` is a command of its own.
    done = here(*(["card", "m2f"] if words == ["card"] else words), "--help")
    assert done.returncode == 0, done.stderr
    for option in options:
        assert option in done.stdout, option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_tables_of_a_page(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#\s]+)\)", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target
    lines = ["", *prose.splitlines()]
    for above, line, rule in zip(lines, lines[1:], [*lines[2:], ""], strict=False):
        if line.startswith("|") and not above.startswith("|"):
            # A table begins with its header, and the rule under it follows.
            assert re.fullmatch(r"[|:\- ]+", rule) and rule.count("|") == line.count("|"), line

"""``python -m tests.helpers.profile_docs``: what ``compare`` prints of records goes into docs/profile.md."""

import subprocess
import sys

from tests.helpers.places import ROOT

DOCUMENT = ROOT / "docs" / "profile.md"
RECORDS = "results/records/cpu-512x1024-kept"
# Each block of the document, and what is printed there.
BLOCKS = {
    "measured": ("compare", "--from", f"{RECORDS}/fp32-batch-1", "--markdown"),
    "published": ("compare", "--from", RECORDS, "--beside-published", "--markdown"),
}


def printed(arguments: tuple[str, ...]) -> str:
    """What the command prints."""
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    for name, arguments in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{printed(arguments)}{end}{rest.partition(end)[2]}"
    DOCUMENT.write_text(text)

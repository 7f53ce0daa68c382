"""Put what ``compare`` prints of the CPU's records, as markdown, into docs/profile.md."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "profile.md"
RECORDS = "results/records/cpu-512x1024-kept"
BEGIN, END = "<!-- compare: begin -->\n", "<!-- compare: end -->"


def printed() -> str:
    """What the command prints."""
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "compare",
        "--from",
        RECORDS,
        "--beside-published",
        "--markdown",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}{printed()}{END}{rest.partition(END)[2]}")

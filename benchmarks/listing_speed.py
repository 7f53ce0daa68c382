"""How long does ``segmeter results list`` take with 10,000 records?

Run it as ``python benchmarks/listing_speed.py``; exit 1 if the command takes 2 s or longer.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBER = 10_000
LIMIT_SECONDS = 2.0
TRIES = 3


def main() -> int:
    """Copy real records under new ids, list them, and print the time of the best of three tries."""
    kept = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "records").rglob("*.json"))]
    kept = [content for content in kept if str(content.get("schema")).startswith("segmeter.run/")]
    if not kept:
        print("no records under results/records to copy", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        size = 0
        for index in range(NUMBER):
            name = f"copy-{index:05d}"
            text = json.dumps({**kept[index % len(kept)], "id": name}, ensure_ascii=False)
            size += Path(folder, f"{name}.json").write_text(text)
        command = [sys.executable, str(ROOT / "cli.py"), "results", "list", "--from", folder]
        times = []
        for _ in range(TRIES):
            start = time.perf_counter()
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            times.append(time.perf_counter() - start)
    assert f"the newest 100 of {NUMBER} records" in listed
    each = size / NUMBER / 1e3
    print(f"{NUMBER} records of {each:.1f} kB listed in {min(times):.2f} s, limit {LIMIT_SECONDS} s")
    return 0 if min(times) < LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())

"""PQ scoring of segmeter beside panopticapi's own code: same PNG files, one core each, decoding included.

``PYTHONPATH=.peers:. python benchmarks/panoptic_quality_speed.py [--images N]`` with a copy of
cocodataset/panopticapi in ``.peers/``; without one, segmeter is timed alone. Images are made: 640x480,
12 to 20 segments of round shapes each, a prediction that is off by a few pixels.
"""

import argparse
import contextlib
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from segmeter.harness.quality.panoptic import GroundSegment, PanopticPair, score_pairs
from segmeter.harness.quality.png_ids import segment_png

CATEGORIES = {category: category <= 80 for category in range(1, 134)}
HEIGHT, WIDTH = 480, 640


def make_pairs(folder: Path, count: int) -> list[PanopticPair]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pairs = []
    for index in range(count):
        generator = np.random.default_rng(index)
        truth, predicted = (np.zeros((HEIGHT, WIDTH), np.uint32) for _ in range(2))
        categories = {}
        for _ in range(generator.integers(12, 20)):
            segment = int(generator.integers(1, 256**3))
            categories[segment] = int(generator.integers(1, 134))
            y, x, radius = (
                generator.integers(0, HEIGHT),
                generator.integers(0, WIDTH),
                generator.integers(20, 150),
            )
            wave = 1 + 0.2 * np.sin((rows - y) / 7) * np.cos((columns - x) / 9)
            for ids, shift in ((truth, 0), (predicted, 3)):
                inside = ((rows - y) ** 2 + (columns - x - shift) ** 2) * wave < radius**2
                ids[inside] = segment
        for name, ids in (("truth", truth), ("predicted", predicted)):
            segment_png(ids).save(folder / f"{name}{index}.png")
        segments = tuple(
            GroundSegment(s, c, int((truth == s).sum())) for s, c in categories.items() if (truth == s).any()
        )
        shown = {s: c for s, c in categories.items() if (predicted == s).any()}
        pairs.append(
            PanopticPair(
                index, folder / f"truth{index}.png", folder / f"predicted{index}.png", segments, shown
            )
        )
    return pairs


def reference(pairs: list[PanopticPair]) -> np.ndarray | None:
    """panopticapi's sums, as our table; None without a copy of it."""
    try:
        from panopticapi.evaluation import pq_compute_single_core
    except ImportError:
        return None
    work = [
        (
            {
                "image_id": pair.image_id,
                "file_name": pair.truth_png.name,
                "segments_info": [
                    {"id": s.id, "category_id": s.category_id, "area": s.area, "iscrowd": int(s.iscrowd)}
                    for s in pair.truth
                ],
            },
            {
                "file_name": pair.predicted_png.name,
                "segments_info": [{"id": s, "category_id": c} for s, c in pair.predicted.items()],
            },
        )
        for pair in pairs
    ]
    folder = str(pairs[0].truth_png.parent)
    with contextlib.redirect_stdout(io.StringIO()):
        stat = pq_compute_single_core(0, work, folder, folder, CATEGORIES)
    return np.array([[getattr(stat[c], n) for n in ("iou", "tp", "fp", "fn")] for c in CATEGORIES], float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        # Files are read over and over, so that 5,000 images need no more than these on disk.
        made = make_pairs(Path(folder), min(count, 200))
        pairs = [made[index % len(made)] for index in range(count)]
        score_pairs(made[:5], CATEGORIES, processes=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        score = score_pairs(pairs, CATEGORIES, processes=1)
        ours = (time.process_time() - start) / count
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"segmeter     {1e3 * ours:6.2f} ms an image; memory grew by {grown:.1f} MiB over {count} images"
        )
        start = time.process_time()
        table = reference(made)
        if table is None:
            print("panopticapi  not found in PYTHONPATH")
            return
        theirs = (time.process_time() - start) / len(made)
        apart = abs(score_pairs(made, CATEGORIES, processes=1).table - table).max()
        print(f"panopticapi  {1e3 * theirs:6.2f} ms an image, {theirs / ours:.1f} times as long")
        print(f"largest difference between the sums: {apart:.1e}; {int(score.table[:, 1].sum())} matches")


if __name__ == "__main__":
    main()

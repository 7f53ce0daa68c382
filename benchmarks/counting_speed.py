"""How fast counting is: all rows of `reproduce`, a data set of 5,000 images, and fvcore on real tensors.

Prints process times (both cores' work added up), peak memory, and the ratio to fvcore, which traces the same
models with real weights on real tensors. Run it alone: ``make bench``.
"""

import resource
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch
from fvcore.nn import FlopCountAnalysis

from segmeter.cuda_ops.formulas import fvcore_handles
from segmeter.encoders.chain import Model
from segmeter.encoders.segmenter.model import build_masked_model
from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.audit.reproduce import reproduced_cells
from segmeter.harness.counting import meta_ops
from segmeter.harness.counting.count import count_dataset, count_model, work_of
from segmeter.harness.inputs.sizes import ImageSize, dataset_sizes
from segmeter.harness.models.spec import ModelSpec, parse_model

# Small enough for fvcore to hold M2F's activations in a few GiB, large enough to be a real input.
REAL_SIZE = (512, 1024)
REAL_MODELS = ("m2f@r50", "pro-scale@r50")


class Flat(torch.nn.Module):
    """The whole model with one tensor in and tensors out, as fvcore's tracer wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(images)
        return output.semantic, output.masks


def timed_fvcore(spec: ModelSpec) -> tuple[float, float]:
    """Process seconds to trace one model on real tensors, and its GMACs; building it is not timed."""
    model = build_masked_model(spec.encoder, spec.backbone, spec.num_classes, **dict(spec.options)).eval()
    images = torch.zeros(1, 3, *REAL_SIZE)
    start = time.process_time()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(Flat(model), (images,)).set_op_handle(**fvcore_handles())
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        total = analysis.total()
    return time.process_time() - start, total / 1e9


def timed_count(spec: ModelSpec) -> tuple[float, float]:
    """Process seconds to count the same model on meta tensors, and its GMACs; building it is not timed."""
    size = ImageSize(REAL_SIZE, REAL_SIZE)
    # Build at another size, then forget what that count taught: fvcore starts from nothing too.
    work_of(spec, ImageSize((64, 64), (64, 64)))
    meta_ops._remembered.clear()
    start = time.process_time()
    macs = work_of(spec, size).macs
    return time.process_time() - start, macs / 1e9


def main_systems() -> None:
    """Every system at its own size or 1024x2048, counted for the first time: building it is timed as well."""
    for system in SYSTEMS.values():
        spec = parse_model(system.name)
        own = system.default_size
        side = own(spec.backbone, {}) if own else (1024, 2048)
        meta_ops._remembered.clear()
        start = time.process_time()
        total = count_model(spec, ImageSize(side, side), "published").figures.total
        seconds = time.process_time() - start
        print(
            f"{spec.text} at {side[0]}x{side[1]}: {total / 1e9:.2f} GMACs in {seconds:.2f} s of process time"
        )


def main() -> None:
    """Run and print."""
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads")
    # One count before the clock starts: imports, and torch's own set-up on first use.
    count_model(parse_model("m2f:layers=1"), ImageSize((64, 64), (64, 64)), "published")

    for text in REAL_MODELS:
        spec = parse_model(text)
        ours, macs = timed_count(spec)
        theirs, fvcore_macs = timed_fvcore(spec)
        print(
            f"{text} at {REAL_SIZE[0]}x{REAL_SIZE[1]}: segmeter {ours:.3f} s ({macs:.2f} GMACs), fvcore on "
            f"real tensors {theirs:.1f} s ({fvcore_macs:.2f} GMACs), ratio {theirs / ours:.0f}x"
        )


def main_meta() -> None:
    """The parts that touch meta tensors only, so that the peak memory is theirs."""
    start = time.process_time()
    cells = reproduced_cells(range(1, 8))
    seconds = time.process_time() - start
    print(f"reproduce: {len(cells)} cells in {seconds:.1f} s of process time")
    start = time.process_time()
    counted = count_dataset(parse_model("pro-scale@r101"), dataset_sizes("coco-val2017"), "published")
    seconds = time.process_time() - start
    print(f"mean over coco-val2017's 5,000 images ({counted.distinct_sizes} sizes): {seconds:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory so far: {peak:.0f} MiB")


if __name__ == "__main__":
    main_meta()
    main_systems()
    main()

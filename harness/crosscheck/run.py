"""Three independent counters over the same model, and the reason for every difference.

fvcore traces the model to a graph; ptflops (its aten backend) and torch's FlopCounterMode watch the
dispatcher. All three run here on meta tensors, part by part, and know segmeter's deformable-attention op
by its registered formula. Each counts some operators and passes over others in silence; :data:`KNOWN`
says which. A whole model of the user's own is one part; if its work depends on what it sees, all run on a
photo. A difference to segmeter's own count (``macs`` convention) is explained when it is exactly the
work of the operators the counter passes over and of what it adds (:mod:`harness.crosscheck.quirks`);
whatever is left is printed as unexplained.
"""

import contextlib
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segmeter.cuda_ops import fvcore_handles, ptflops_hooks
from segmeter.encoders.chain import Sizes, Stage
from segmeter.encoders.images import normalise
from segmeter.harness.counting import (
    CONVENTIONS,
    Count,
    DataDependentError,
    run_and_count,
    versions,
    why_photos,
)
from segmeter.harness.crosscheck.quirks import (
    added_products,
    bias_additions,
    einsum_rounding,
    global_pooling,
    unused_work,
)
from segmeter.harness.crosscheck.tracing import traceable_on_meta
from segmeter.harness.inputs import ImageSize, find_photos, format_size, read_photo
from segmeter.harness.models import (
    Form,
    ModelSpec,
    SmallValues,
    blaming,
    filled,
    form_of,
    meta_stages,
    real_model,
    small_values,
    tensors_in,
)
from segmeter.harness.records import GIGA

SCHEMA = "segmeter.crosscheck/1"
_PRODUCTS = {"conv", "linear", "matmul"}
_DEFORMABLE = {"deform_sampling", "deform_weighting"}
_ATTENTION = {"attention_scores", "attention_values"}
_NORMS = {"layer_norm", "group_norm", "batch_norm"}
_RESIZING = {"upsample_bilinear", "upsample_nearest"}

# Operators (segmeter's names) that each counter has a formula for.
KNOWN: dict[str, frozenset[str]] = {
    "fvcore": frozenset(_PRODUCTS | _DEFORMABLE | _NORMS | _RESIZING | {"pooling", "grid_sampler"}),
    # Both attention products reach the dispatcher as plain batched products (on the CPU, as we ask for it).
    "ptflops": frozenset(_PRODUCTS | _DEFORMABLE | _ATTENTION),
    "torch": frozenset(_PRODUCTS | _DEFORMABLE | _ATTENTION),
}
REASONS = {
    "attention_scores": "scaled_dot_product_attention has no handle: query-key product",
    "attention_values": "scaled_dot_product_attention has no handle: product with the values",
    "layer_norm": "norms are not counted",
    "group_norm": "norms are not counted",
    "batch_norm": "norms are not counted",
    "upsample_bilinear": "resizing is not counted",
    "upsample_nearest": "resizing is not counted",
    "upsample_linear": "resizing along one axis is not counted",
    "upsample_bicubic": "bicubic resizing is not counted",
    "grid_sampler": "sampling is not counted",
    "pooling": "pooling is not counted",
    "bias_additions": "counted on top: one for every output of a linear layer or convolution with bias",
    "einsum_rounding": "fvcore reads an einsum's cost from numpy's printed table, to four digits",
    "global_pooling": "counted on top: pooling to one pixel, which below is a mean and multiplies nothing",
    "unused_results": "fvcore's tracer drops what no output depends on",
    "scripted_functions": "fvcore does not look into functions that torch.jit.script compiled (resizing)",
    "added_products": "baddbmm, a matrix product with an addition, has no handle",
}
COUNTERS = tuple(KNOWN)
# What a model that is one part is called.
WHOLE = "model"


@dataclass(frozen=True)
class CrossCheck:
    """One counter on one part of a model. All figures are MACs.

    Attributes:
        part: backbone, encoder, decoder or postprocess; "model" for a whole model of the user's own.
        counter: "fvcore", "ptflops" or "torch".
        version: of the counter's package.
        counted: what the counter says (torch's FLOPs halved).
        reference: segmeter's count in the ``macs`` convention.
        explained: reason (a key of :data:`REASONS`) -> MACs. Positive for operators that the counter
            passes over, by segmeter's count of them; negative for what it counts on top.
        unsupported: operators that the counter itself reports as unsupported, with their calls; None where
            the counter does not say.
        unexplained: reference - counted - explained; 0 when all is explained.
        failed: why the counter could not run at all, in one line; its figures are 0 then.
    """

    part: str
    counter: str
    version: str
    counted: int
    reference: int
    explained: dict[str, int]
    unsupported: dict[str, int] | None
    unexplained: int
    failed: str = ""


@dataclass(frozen=True)
class Subject:
    """What the counters run over: a part's name -> its module and inputs, on meta or on the CPU.

    ``reason`` says why a real input was needed; "" on meta.
    """

    parts: dict[str, tuple[nn.Module, tuple[Tensor, ...]]]
    reason: str = ""


class TensorsOnly(nn.Module):
    """A part of a model with tensors in and tensors out, as tracers want it."""

    def __init__(self, part: nn.Module, call: Callable[[nn.Module, tuple[Tensor, ...]], Any]) -> None:
        super().__init__()
        self.part = part
        self.call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the part; flat tensors in, flat tensors out."""
        return self.call(self.part, tensors)


def cross_check(
    subject: Subject,
    progress: Callable[[int], None] = lambda done: None,
    counters: Sequence[str] = COUNTERS,
) -> list[CrossCheck]:
    """Run the three counters over each part of a model; see :func:`crosscheck_subject`.

    ``progress`` is called with the number of (part, counter) pairs done; ``counters`` are those to run.
    """
    results = []
    for part, (module, inputs) in subject.parts.items():
        _, reference = run_and_count(module, *inputs)
        for counter in counters:
            with small_values() if inputs[0].is_meta else nullcontext() as values:
                results.append(_check(part, counter, module, inputs, reference, values))
            progress(len(results))
    return results


def crosscheck_subject(spec: ModelSpec, size: ImageSize) -> Subject:
    """Build a model for :func:`cross_check` at one size.

    Raises:
        ValueError: the user's own code failed.
        DataDependentError: the work of a part depends on its input.
    """
    reason = why_photos(spec, size)
    if not reason:
        return Subject(_parts(spec, size))
    if not spec.system.is_own_whole:
        raise DataDependentError(reason)
    # On a photo the model is one part: what goes from one of its own modules to the next is not known.
    model = real_model(spec)
    image = normalise(read_photo(find_photos(())[0], size.padded))[None]
    with blaming(f"{spec.encoder} failed on a {format_size(size.padded)} image"):
        run_and_count(model, image)
    return module_subject(model, (image,), reason)


def cross_check_record(
    spec: ModelSpec, size: ImageSize, checks: Sequence[CrossCheck], reason: str = ""
) -> dict[str, Any]:
    """The cross-check as plain data, in GMACs; ``reason`` is the subject's."""
    return {
        "schema": SCHEMA,
        "model": spec.text,
        "title": spec.title,
        "convention": "macs",
        "convention_text": CONVENTIONS["macs"],
        "padded_size": list(size.padded),
        "original_size": list(size.original),
        "real_input": reason or None,
        "rows": [
            {
                "part": check.part,
                "counter": check.counter,
                "version": check.version,
                "gmacs": None if check.failed else check.counted / GIGA,
                "reference_gmacs": check.reference / GIGA,
                "explained": {name: macs / GIGA for name, macs in check.explained.items()},
                "unsupported_ops": check.unsupported,
                "unexplained_gmacs": None if check.failed else check.unexplained / GIGA,
                "failed": check.failed or None,
            }
            for check in checks
        ],
        "unexplained_gmacs": sum(abs(check.unexplained) for check in checks) / GIGA,
        "versions": versions(),
    }


def _check(
    part: str,
    counter: str,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    reference: Count,
    values: SmallValues | None,
) -> CrossCheck:
    try:
        if counter == "fvcore":
            counted, unsupported, theirs = _count_fvcore(module, inputs, values)
        else:
            counted, unsupported, theirs = _COUNT[counter](module, inputs)
    except Exception as error:
        # A tracer meets code here that it may not be able to trace; the other counters still can.
        said = " ".join(str(error).split())[:120] or "no message"
        failed = f"{type(error).__name__}: {said}"
        return CrossCheck(part, counter, version(counter), 0, reference.macs, {}, None, 0, failed)
    explained: defaultdict[str, int] = defaultdict(int)
    for work in reference.work:
        if work.macs and work.operator not in KNOWN[counter]:
            explained[work.operator] += work.macs
    if counter == "ptflops":
        explained["bias_additions"] = -bias_additions(module, inputs)
        explained["added_products"] = added_products(module, inputs)
    if counter == "fvcore":
        explained["einsum_rounding"] = -einsum_rounding(module, inputs)
        explained["global_pooling"] = -global_pooling(module, inputs)
        explained["added_products"] = added_products(module, inputs)
        explained["unused_results"] = unused_work(module, inputs, KNOWN[counter].__contains__)
        if unsupported and "prim::CallFunction" in unsupported:
            ours = sum(work.macs for work in reference.work if work.operator == "upsample_bilinear")
            explained["scripted_functions"] = ours - theirs.get("upsample_bilinear2d", 0)
    return CrossCheck(
        part=part,
        counter=counter,
        version=version(counter),
        counted=counted,
        reference=reference.macs,
        explained={name: macs for name, macs in explained.items() if macs},
        unsupported=unsupported,
        unexplained=reference.macs - counted - sum(explained.values()),
    )


# MACs, operators that the counter calls unsupported (None: it does not say), MACs by its names of operators.
_Counted = tuple[int, dict[str, int] | None, dict[str, int]]


def _count_fvcore(module: nn.Module, inputs: tuple[Tensor, ...], values: SmallValues | None) -> _Counted:
    with warnings.catch_warnings():
        # Of what it imports: its users can change nothing about that.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(module, inputs).set_op_handle(**fvcore_handles())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    # The tracer warns about every Python number it bakes in; sizes are fixed here on purpose.
    on_meta = traceable_on_meta(values) if values is not None else nullcontext()
    with warnings.catch_warnings(), torch.no_grad(), on_meta:
        warnings.simplefilter("ignore")
        total = int(analysis.total())
        return total, dict(analysis.unsupported_ops()), dict(analysis.by_operator())


def _count_ptflops(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Counted:
    # Importing ptflops configures nothing, but it prints as it counts.
    from ptflops.aten_engine import FlopCounterMode as PtflopsMode

    said = io.StringIO()
    with contextlib.redirect_stdout(said), torch.no_grad():
        mode = PtflopsMode(
            output_params={"serialize_params": {}, "print_params": {"file": said}},
            custom_hooks=ptflops_hooks(),
        )
        with mode, sdpa_kernel(SDPBackend.MATH):
            module(*inputs)
    return int(mode.complexity), None, {}


def _count_torch(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Counted:
    mode = FlopCounterMode(display=False)
    # It logs a warning for modules that are called outside their parent's forward.
    logger = logging.getLogger("torch.utils.module_tracker")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # With gradients off its module tracker stumbles over views of parameters.
        with mode, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            module(*inputs)
    finally:
        logger.setLevel(before)
    return mode.get_total_flops() // 2, None, {}


_COUNT: dict[str, Callable[..., _Counted]] = {
    "ptflops": _count_ptflops,
    "torch": _count_torch,
}


def module_subject(module: nn.Module, inputs: tuple[Tensor, ...], reason: str = "") -> Subject:
    """Any module as one part, called ``model``; what it returns may be nested as it likes."""

    def run(part: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensors_in(part(*tensors)))

    return Subject({WHOLE: (TensorsOnly(module, run).eval(), inputs)}, reason)


def _parts(spec: ModelSpec, size: ImageSize) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Each stage with meta inputs of the shapes it gets at this size."""
    sizes = Sizes(size.padded, size.padded, size.original)
    value: Any = torch.empty((1, 3, *size.padded), device="meta")
    parts: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    for stage, module in meta_stages(spec):
        # What a stage hands on may be a view of a parameter, which torch's module tracker stumbles over.
        inputs = tuple(each.detach() for each in tensors_in(value))
        parts[stage.name or WHOLE] = (TensorsOnly(module, _flat(stage, form_of(value), sizes)).eval(), inputs)
        if len(parts) == len(spec.stages):
            break  # what the last hands on is not looked at
        with torch.no_grad():
            value = stage.call(module, value, sizes)
    return parts


def _flat(
    stage: Stage, form: Form, sizes: Sizes
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A stage's call with flat tensors in and out."""

    def run(part: nn.Module, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensors_in(stage.call(part, filled(form, iter(tensors)), sizes)))

    return run

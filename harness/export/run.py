"""Write a model as ONNX, and see in ONNX Runtime that it computes what eager does."""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segmeter.cuda_ops import accelerate_model
from segmeter.harness.export.parts import WHOLE, Cut, Part, cut, named_tensors
from segmeter.harness.export.session import check_packages, make_session, versions
from segmeter.harness.export.traceable import sizes_seen
from segmeter.harness.inputs import Size, format_size
from segmeter.harness.models import ModelSpec

if TYPE_CHECKING:
    import onnx

# Inputs by their names.
Named = dict[str, Tensor]
SCHEMA = "segmeter.export/1"
# Largest difference over the largest entry of an output: sums in another order, in float32.
TOLERANCE = 1e-3
PORTABLE, PLUGIN = "portable", "plugin"
# Sides that one input is exported with and another is checked at, where they are dynamic.
STEPS = (1, 2)
# A library says of no model which sizes it takes; these suit most.
DIVISOR = 32
BATCHES = (2, 3)
# A protobuf message, which an ONNX file of one piece is, holds less than 2 GiB; the graph takes some of it.
MOST_BYTES = 2**31 - 2**24
# What is dynamic is traced at least at this size: a tracer takes for a constant what is one there, such as
# the number of Swin's windows on a small map.
LEAST = (480, 608)


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        size: (H, W) of the padded images.
        batch: B; with ``dynamic`` only what it is checked at.
        part: ``model``, a stage, or ``FIRST..LAST``.
        plugin: TensorRT's plugin for deformable attention, in place of ``GridSample``.
        dynamic: batch, height and width may change, where the model allows it.
        tolerance: the largest difference from eager, over the largest entry of an output.
    """

    size: Size
    batch: int = 1
    part: str = WHOLE
    plugin: bool = False
    dynamic: bool = False
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}")


@dataclass(frozen=True)
class Check:
    """One comparison with eager.

    Attributes:
        size: "HxW" of the padded images.
        batch: B.
        errors: output -> largest difference over the largest entry.
    """

    size: str
    batch: int
    errors: dict[str, float]


@dataclass(frozen=True)
class Export:
    """A model as a file.

    Attributes:
        content: the file's bytes.
        record: of schema ``segmeter.export/1``.
    """

    content: bytes
    record: dict[str, Any]


def export(
    spec: ModelSpec,
    model: nn.Module,
    settings: Settings,
    weights: str = "random",
    progress: Callable[[str], None] = lambda what: None,
) -> Export:
    """A model as ONNX, checked.

    Args:
        spec: what the model is.
        model: the model itself, in float32 on the CPU; as it was when this returns.
        settings: what is asked for.
        weights: where its weights are from.
        progress: called with what is done next.

    Raises:
        ValueError: a package is missing, the model cannot be exported, or its outputs in ONNX Runtime differ.
    """
    check_packages()
    chosen = cut(spec, model, settings.part)
    _check_bytes(spec, chosen)
    with _accelerated(model) as kept, sizes_seen(model):
        progress("tracing")
        program, part, tensors = _program(spec, chosen, settings)
        progress("translating")
        translated = _translated(spec, program, part, tensors, chosen, settings)
    # Against the model as it is: what was changed for the export is checked with the rest.
    progress("checking")
    portable, written = _forms(translated, settings.plugin)
    checks = _checked(spec, chosen, settings, portable.SerializeToString(), _dynamic(program))
    content = written.SerializeToString()
    record = {
        "schema": SCHEMA,
        "model": spec.text,
        "title": spec.title,
        "part": chosen.name,
        "form": PLUGIN if settings.plugin else PORTABLE,
        "weights": weights,
        "size": format_size(settings.size),
        "inputs": _described(written.graph.input),
        "outputs": _described(written.graph.output),
        "fixed": _fixed(program, settings),
        "opset": next(each.version for each in written.opset_import if not each.domain),
        "deformable_attention": _number_of_calls(translated),
        "grid_samples": sum(node.op_type == "GridSample" for node in written.graph.node),
        "kept_layers": kept,
        "tolerance": settings.tolerance,
        "checks": [asdict(check) for check in checks],
        "bytes": len(content),
        "versions": versions(),
    }
    return Export(content, record)


def _check_bytes(spec: ModelSpec, chosen: Cut) -> None:
    part = nn.ModuleList(chosen.modules[chosen.first : chosen.last + 1])
    held = sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
    if held > MOST_BYTES:
        way_out = "; --part exports a stage of it" if len(chosen.stages) > 1 and chosen.name == WHOLE else ""
        raise ValueError(
            f"{spec.title} holds {held / 1e9:.2f} GB of weights, an ONNX file of one piece at most "
            f"{MOST_BYTES / 1e9:.2f} GB{way_out}"
        )


@contextmanager
def _accelerated(model: nn.Module) -> Any:
    """Within, a library's deformable attention runs on the op, whose nodes are known; yields what not."""
    try:
        done = accelerate_model(model)
    except ValueError:
        # segmeter's own encoders, and models without deformable attention.
        yield []
        return
    with done:
        yield [f"{layer.path}: {layer.reason}" for layer in done.kept]


def _program(spec: ModelSpec, chosen: Cut, settings: Settings) -> tuple[Any, Part, Named]:
    """The traced part, the part itself, and what it was traced with."""
    if not settings.dynamic:
        return _traced(spec, chosen, settings, settings.size, settings.batch)
    batch = max(settings.batch, BATCHES[0])
    large = (max(settings.size[0], LEAST[0]), max(settings.size[1], LEAST[1]))
    if chosen.first == 0 and large != settings.size:
        try:
            return _traced(spec, chosen, settings, large, batch)
        except ValueError:
            # A model that takes its own size alone.
            pass
    return _traced(spec, chosen, settings, settings.size, batch)


def _traced(
    spec: ModelSpec, chosen: Cut, settings: Settings, size: Size, batch: int
) -> tuple[Any, Part, Named]:
    inputs = _inputs(spec, chosen, size, batch)
    part = chosen.part(inputs, size).eval()
    named = dict(zip(chosen.input_names(inputs), (each for _, each in named_tensors(inputs)), strict=True))
    tensors = tuple(named.values())
    shapes = (tuple(_any_size(tensor) for tensor in tensors),) if settings.dynamic else None
    with torch.no_grad(), _quiet(), _told(spec, chosen, "be traced", settings):
        return torch.export.export(part, tensors, dynamic_shapes=shapes, strict=False), part, named


def _inputs(spec: ModelSpec, chosen: Cut, size: Size, batch: int) -> Any:
    try:
        return chosen.inputs(size, batch)
    except Exception as error:
        # Whatever a model of the user's own raises before the part that is exported.
        raise ValueError(f"{spec.title} does not run at {format_size(size)}: {_first_line(error)}") from error


def _any_size(tensor: Tensor) -> dict[int, Any]:
    """The dimensions of an input that may be dynamic: all but the channels."""
    dims = (0, 2, 3) if tensor.dim() == 4 else range(tensor.dim() - 1)
    return {dim: torch.export.Dim.AUTO for dim in dims}


def _translated(
    spec: ModelSpec, program: Any, part: Part, inputs: Named, chosen: Cut, settings: Settings
) -> "onnx.ModelProto":
    """The program as ONNX, each call of the op one node."""
    from segmeter.cuda_ops import onnx_form

    names = list(inputs)
    with torch.no_grad():
        outputs = [name for name, _ in named_tensors(part.value(*inputs.values()))]
    with torch.no_grad(), _quiet(), _told(spec, chosen, "be translated", settings):
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=outputs,
            opset_version=onnx_form.OPSET,
            custom_translation_table=onnx_form.translations(),
        )
        assert made is not None
        model = made.model_proto
    _name_sizes(model, program, names)
    for key, value in (("model", spec.text), ("part", chosen.name)):
        entry = model.metadata_props.add()
        entry.key, entry.value = f"segmeter.{key}", value
    return model


def _forms(model: "onnx.ModelProto", plugin: bool) -> tuple["onnx.ModelProto", "onnx.ModelProto"]:
    """The model in ONNX's own operators, and the one that is written."""
    from segmeter.cuda_ops import onnx_form

    portable = onnx_form.written_out(model)
    return portable, onnx_form.with_plugin(model) if plugin else portable


def _number_of_calls(model: "onnx.ModelProto") -> int:
    from segmeter.cuda_ops import onnx_form

    return onnx_form.number_of_calls(model)


def _checked(
    spec: ModelSpec, chosen: Cut, settings: Settings, content: bytes, dynamic: set[str]
) -> list[Check]:
    """The file's outputs beside eager's, at the size asked for and, what is dynamic, at another.

    Raises:
        ValueError: they differ by more than the tolerance, or it does not run.
    """
    with _told(spec, chosen, "be run in ONNX Runtime", settings):
        session = make_session("onnxruntime", content)
    places = [(settings.size, settings.batch)]
    if dynamic:
        height, width = (
            side + step * max(spec.system.size_divisor, DIVISOR) if name in dynamic else side
            for side, step, name in zip(settings.size, STEPS, ("height", "width"), strict=True)
        )
        places.append(((height, width), BATCHES[1] if "batch" in dynamic else settings.batch))
    checks = []
    for size, batch in places:
        inputs = _inputs(spec, chosen, size, batch)
        part = chosen.part(inputs, size)
        tensors = [tensor for _, tensor in named_tensors(inputs)]
        with torch.no_grad(), _told(spec, chosen, f"be run at {format_size(size)}", settings):
            expected = dict(named_tensors(part.value(*tensors)))
            found = session([tensor.contiguous() for tensor in tensors])
        errors = relative_errors(list(expected.values()), found)
        check = Check(format_size(size), batch, dict(zip(expected, errors, strict=True)))
        worst = max(check.errors, key=lambda name: check.errors[name])
        if not check.errors[worst] <= settings.tolerance:
            raise ValueError(
                f"{spec.title} as ONNX differs from eager at {format_size(size)}, batch {batch}: {worst} by "
                f"{check.errors[worst]:.2g} of its largest entry, beyond --tolerance {settings.tolerance:g}; "
                "nothing is written"
            )
        checks.append(check)
    return checks


def relative_errors(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[float]:
    """For each output the largest difference over the largest entry; infinite where shapes differ.

    >>> relative_errors([torch.tensor([1.0, -4.0])], [torch.tensor([1.0, -4.5])])
    [0.125]
    """
    if len(expected) != len(found):
        return [float("inf")] * len(expected)
    errors = []
    for want, got in zip(expected, found, strict=True):
        if want.shape != got.shape:
            errors.append(float("inf"))
            continue
        if not want.numel():
            errors.append(0.0)
            continue
        difference = float((want.double() - got.double()).abs().max())
        largest = float(want.double().abs().max())
        errors.append(difference / largest if largest else difference)
    return errors


def _dynamic(program: Any) -> set[str]:
    """What of batch, height and width is dynamic in some input."""
    names = {0: "batch", 2: "height", 3: "width"}
    found = set()
    for value in _input_values(program):
        axes = names if value.dim() == 4 else {0: "batch", 1: "height"}
        found |= {names_of for axis, names_of in axes.items() if not isinstance(value.shape[axis], int)}
    return found


def _fixed(program: Any, settings: Settings) -> list[str]:
    """What was asked to be dynamic and is not."""
    if not settings.dynamic:
        return []
    found = _dynamic(program)
    return [name for name in ("batch", "height", "width") if name not in found]


def _input_values(program: Any) -> list[Any]:
    inputs = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.name in inputs]


def _name_sizes(model: "onnx.ModelProto", program: Any, names: Sequence[str]) -> None:
    """Call the dynamic sizes batch, height and width, in place of the tracer's symbols."""
    words = {}
    for name, value in zip(names, _input_values(program), strict=True):
        for axis, size in enumerate(value.shape):
            if isinstance(size, int) or str(size) in words:
                continue
            kind = {0: "batch", 2: "height", 3: "width"}.get(axis, f"size{axis}")
            words[str(size)] = kind if kind == "batch" or len(names) == 1 else f"{name}_{kind}"
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words) or "$^")
    for known in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in known.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: words[found[0]], dim.dim_param)


def _described(values: Any) -> list[dict[str, Any]]:
    """Name and shape of inputs or outputs; a dynamic size is a text."""
    return [
        {
            "name": each.name,
            "shape": [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim],
        }
        for each in values
    ]


@contextmanager
def _told(spec: ModelSpec, chosen: Cut, what: str, settings: Settings) -> Any:
    """Whatever a tracer, a translator or a runtime raises, in one line."""
    try:
        yield
    except Exception as error:
        part = "" if chosen.name == WHOLE else f" ({chosen.name})"
        hint = "; without --dynamic it may" if settings.dynamic else ""
        raise ValueError(f"{spec.title}{part} cannot {what}: {_first_line(error)}{hint}") from error


def _first_line(error: BaseException) -> str:
    """The innermost cause's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Any:
    """Without the exporter's warnings, which are about its own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    # A tracer that fails prints its graph as well as raising.
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)

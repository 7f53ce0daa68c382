"""Published checkpoints into segmeter's models, safely: no code from a file ever runs.

The format and the model are recognised by the entries' names and shapes; every entry that is unexpected,
missing or of another shape is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from segmeter.harness.models import ModelSpec, meta_model, real_model
from segmeter.harness.weights.checkpoint import Checkpoint, read_checkpoint
from segmeter.harness.weights.files import check_numbers
from segmeter.harness.weights.names import MODEL_KEY
from segmeter.harness.weights.recognise import classes_and_queries, recognise_model

# Counts of training steps in batch norms: buffers that inference does not read.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LoadReport:
    """What became of every entry; a load is whole if the last three are empty.

    Attributes:
        matched: number of entries loaded.
        ignored: entries that are no weights of the model.
        unexpected: entries that the model does not have, by the file's names.
        missing: entries that the file does not have, by our names.
        misshapen: "name: file's shape, model's shape".
    """

    matched: int
    ignored: list[str]
    unexpected: list[str]
    missing: list[str]
    misshapen: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether every weight of the model came from the file, and every weight of the file was used."""
        return not (self.unexpected or self.missing or self.misshapen)

    def lines(self) -> list[str]:
        """Every entry that did not fit, one a line."""
        return [
            *(f"unexpected  {name}" for name in self.unexpected),
            *(f"missing     {name}" for name in self.missing),
            *(f"misshapen   {name}" for name in self.misshapen),
        ]


class CheckpointMismatchError(ValueError):
    """The file's weights are not this model's; ``report`` lists every entry."""

    def __init__(self, path: Path, spec: ModelSpec, report: LoadReport) -> None:
        self.report = report
        first = "; ".join(" ".join(line.split()) for line in report.lines()[:3])
        super().__init__(
            f"{path} does not fit {spec.text} with {spec.num_classes} classes: "
            f"{report.matched} entries match, {len(report.unexpected)} unexpected, "
            f"{len(report.missing)} missing, {len(report.misshapen)} misshapen ({first}, ...)"
        )


def load_model(path: Path, spec: ModelSpec | None = None) -> tuple[nn.Module, ModelSpec, LoadReport]:
    """Build the model of a checkpoint and fill it.

    Args:
        path: the checkpoint.
        spec: the model; None to recognise it. Its classes and queries are the file's, where it has them.

    Returns:
        The model in eval mode, in float32 on the CPU; its spec; what became of every entry.

    Raises:
        CheckpointMismatchError: an entry is unexpected, missing or misshapen.
        ValueError: as :func:`read_checkpoint` and :func:`recognise_model`.
    """
    checkpoint = read_checkpoint(path)
    if spec is None:
        spec = recognise_model(checkpoint)
    else:
        classes, queries = classes_and_queries(checkpoint, spec.system, spec.num_queries)
        spec = _with_traces(spec.with_heads(classes, queries), checkpoint)
    entries = meta_model(spec).state_dict().items()
    shapes = {name: tuple(entry.shape) for name, entry in entries if not name.endswith(COUNTER)}
    report = compare(checkpoint, shapes)
    if not report.is_whole:
        raise CheckpointMismatchError(path, spec, report)
    check_numbers(path, {checkpoint.origin[name]: tensor for name, tensor in checkpoint.weights.items()})
    model = real_model(spec)
    with torch.no_grad():
        for name, entry in model.state_dict(keep_vars=True).items():
            if name in checkpoint.weights:
                entry.copy_(checkpoint.weights[name])
    return model.eval(), spec, report


def _with_traces(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """The same with the options that leave a trace in the file, where the spec has their defaults.

    Raises:
        ValueError: the file is of another reducer of tokens.
    """
    naming = spec.system.naming
    if naming is None:
        return spec
    defaults = spec.system.settings.defaults
    seen = naming.options({name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()})
    options = dict(spec.options)
    options |= {name: value for name, value in seen.items() if options[name] == defaults[name]}
    chooser = spec.system.code_option
    if chooser in seen and options[chooser] != seen[chooser]:
        # Its further options would be another one's.
        raise ValueError(
            f"{checkpoint.path} holds weights of {chooser}={seen[chooser]}, not of "
            f"{chooser}={options[chooser]}"
        )
    return replace(spec, options=tuple(sorted(options.items())))


def compare(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> LoadReport:
    """Set a checkpoint's entries against a model's names and shapes."""
    unexpected, misshapen, matched = list(checkpoint.unexpected), [], 0
    for name, tensor in checkpoint.weights.items():
        found = tuple(tensor.shape)
        if name not in shapes:
            unexpected.append(checkpoint.origin[name])
        elif found != shapes[name]:
            misshapen.append(f"{checkpoint.origin[name]}: {found} in the file, {shapes[name]} in the model")
        else:
            matched += 1
    missing = [name for name in shapes if name not in checkpoint.weights]
    return LoadReport(matched, checkpoint.ignored, unexpected, missing, misshapen)


def convert(source: Path, target: Path, spec: ModelSpec | None = None) -> tuple[ModelSpec, LoadReport]:
    """Write a checkpoint as safetensors under our names, with the model in its metadata.

    Raises:
        ValueError: as :func:`load_model`, or the target does not end in .safetensors or is the source.
        OSError: the target cannot be written; it is then not there in part either.
    """
    from safetensors.torch import save

    from segmeter.harness.records import write_bytes

    if target.suffix != ".safetensors":
        raise ValueError(f"convert writes .safetensors, got {target.name!r}")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the checkpoint itself; write to another file")
    model, spec, report = load_model(source, spec)
    entries = {name: entry.contiguous() for name, entry in model.state_dict().items()}
    write_bytes(target, save(entries, {MODEL_KEY: spec.text, "segmeter.source": source.name}))
    return spec, report

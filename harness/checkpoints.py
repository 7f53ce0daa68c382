"""Published checkpoints into segmeter's models, safely: no code from a file ever runs.

Read: detectron2's ``.pkl`` (:mod:`harness.safe_pickle`), torch's ``.pth``, ``.pt`` and ``.bin``
(``weights_only``), and ``.safetensors``. The format and the model are recognised by the entries' names
and shapes; every entry that is unexpected, missing or of another shape is listed.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.segmenter import build_segmenter
from harness.checkpoint_names import recognise_format, rename, to_tensor
from harness.safe_pickle import load_pickle
from harness.spec import ModelSpec, model_spec, parse_model

SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt", ".bin")
MODEL_KEY = "segmeter.model"
# A torch archive stores its members as they are; a member larger than this beyond the file is a bomb.
ZIP_SLACK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names.

    Attributes:
        path: the file.
        kind: one of :data:`harness.checkpoint_names.FORMATS`.
        weights: our names -> tensors.
        origin: our names -> the file's names.
        unexpected: the file's entries that no model of this format has.
        ignored: the file's entries that are no weights of the model (loss, index buffers).
        metadata: a safetensors file's text entries.
    """

    path: Path
    kind: str
    weights: dict[str, Tensor]
    origin: dict[str, str]
    unexpected: list[str]
    ignored: list[str]
    metadata: dict[str, str]


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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file and put its entries under our names.

    Raises:
        ValueError: no such file, no known format, a truncated file, or one that asks to run code; the
            offending global is named.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"unknown kind of checkpoint {path.name!r}; expected one of {', '.join(SUFFIXES)}")
    content, metadata = _read(path)
    entries = _entries(content)
    kind = recognise_format(entries)
    if kind is None:
        some = ", ".join(list(entries)[:3]) or "none"
        raise ValueError(
            f"{path} holds no Mask2Former-style model: expected names of detectron2, transformers or "
            f"segmeter, "
            f"found {len(entries)} entries ({some})"
        )
    weights, origin, unexpected, ignored = rename(kind, entries)
    return Checkpoint(path, kind, weights, origin, unexpected, ignored, metadata)


def recognise_model(checkpoint: Checkpoint) -> ModelSpec:
    """The model that a checkpoint's names and shapes are of.

    What leaves no trace in them takes its default: PRO-SCALE's temperature (0.1, as released) and which
    pooling an LPE has. Lite-M2F has M2F's names, so it is only recognised in files that segmeter wrote.

    Raises:
        ValueError: the backbone or encoder is none of ours.
    """
    weights = checkpoint.weights
    classes = _rows(checkpoint, "decoder.class_embed.weight") - 1
    queries = _rows(checkpoint, "decoder.query_feat.weight")
    written = checkpoint.metadata.get(MODEL_KEY)
    if written is not None:
        return parse_model(written, num_classes=classes, num_queries=queries)
    encoder, options = _recognise_encoder(checkpoint.path, weights)
    return model_spec(
        encoder, recognise_backbone(weights), num_classes=classes, num_queries=queries, **options
    )


def load_model(path: Path, spec: ModelSpec | None = None) -> tuple[nn.Module, ModelSpec, LoadReport]:
    """Build the model of a checkpoint and fill it.

    Args:
        path: the checkpoint.
        spec: the model; None to recognise it. Its classes and queries are taken from the file.

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
        spec = replace(
            spec,
            num_classes=_rows(checkpoint, "decoder.class_embed.weight") - 1,
            num_queries=_rows(checkpoint, "decoder.query_feat.weight"),
        )
    with torch.device("meta"):
        shapes = {name: tuple(entry.shape) for name, entry in _build(spec).state_dict().items()}
    report = compare(checkpoint, shapes)
    if not report.is_whole:
        raise CheckpointMismatchError(path, spec, report)
    model = _build(spec)
    with torch.no_grad():
        for name, entry in model.state_dict(keep_vars=True).items():
            if name in checkpoint.weights:
                entry.copy_(checkpoint.weights[name])
    return model.eval(), spec, report


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

    from harness.record import write_bytes

    if target.suffix != ".safetensors":
        raise ValueError(f"convert writes .safetensors, got {target.name!r}")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the checkpoint itself; write to another file")
    model, spec, report = load_model(source, spec)
    entries = {name: entry.contiguous() for name, entry in model.state_dict().items()}
    write_bytes(target, save(entries, {MODEL_KEY: spec.text, "segmeter.source": source.name}))
    return spec, report


def recognise_backbone(weights: Mapping[str, Tensor]) -> str:
    """A key of ``BACKBONES`` from names and shapes.

    Raises:
        ValueError: none of them.
    """
    depth = _count(weights, r"backbone\.trunk\.layer3\.(\d+)\.conv1\.weight")
    if depth in (6, 23):
        return {6: "r50", 23: "r101"}[depth]
    blocks = _count(weights, r"backbone\.trunk\.layers_2\.blocks\.(\d+)\.norm1\.weight")
    patch = weights.get("backbone.trunk.patch_embed.proj.weight")
    table = weights.get("backbone.trunk.layers_0.blocks.0.attn.relative_position_bias_table")
    if patch is not None and table is not None:
        window = {169: 7, 529: 12}.get(table.shape[0])
        known = {
            (96, 6, 7): "swin-t",
            (96, 18, 7): "swin-s",
            (128, 18, 12): "swin-b",
            (192, 18, 12): "swin-l",
        }
        name = known.get((patch.shape[0], blocks, window or 0))
        if name is not None:
            return name
        raise ValueError(
            f"a Swin of width {patch.shape[0]}, {blocks} blocks in its third stage and a bias table of "
            f"{table.shape[0]} rows is none of {', '.join(sorted(known.values()))}"
        )
    raise ValueError("the checkpoint's backbone is none that can be recognised (r50, r101, swin-t to swin-l)")


def _recognise_encoder(path: Path, weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    offsets: dict[int, int] = {}
    for name, tensor in weights.items():
        layer = re.fullmatch(
            r"encoder\.transformer\.encoder\.layers\.(\d+)\.self_attn\.sampling_offsets\.bias", name
        )
        if layer:
            offsets[int(layer[1])] = tensor.shape[0]
    levels = [offsets[layer] // 64 for layer in sorted(offsets)]
    if not levels or any(level not in (1, 2, 3) for level in levels) or levels != sorted(levels):
        raise ValueError(f"{path} holds no encoder of M2F's or PRO-SCALE's kind; give --encoder")
    embedding = "conv" if "encoder.layer_1.weight" in weights else "lpe"
    excite = weights.get("encoder.transformer.encoder.token_excite.ops.weight")
    if excite is None and embedding == "conv" and set(levels) == {3}:
        return "m2f", {"layers": len(levels)}
    recalibration = None if excite is None else "conv" if excite.ndim == 4 else "linear"
    return "pro-scale", {
        "stages": tuple(levels.count(stage) for stage in (1, 2, 3)),
        "pixel_embedding": embedding,
        "recalibration": recalibration,
    }


def _build(spec: ModelSpec) -> nn.Module:
    return build_segmenter(
        spec.encoder, spec.backbone, spec.num_classes, spec.num_queries, **dict(spec.options)
    )


def _rows(checkpoint: Checkpoint, name: str) -> int:
    if name not in checkpoint.weights or checkpoint.weights[name].ndim != 2:
        raise ValueError(f"{checkpoint.path} has no {name} (a truncated model, or a backbone alone)")
    return checkpoint.weights[name].shape[0]


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for name in weights if re.fullmatch(pattern, name))


def _entries(content: Any) -> dict[str, Tensor]:
    """The state dict inside a file's content: itself, or under "model" or "state_dict"."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"a checkpoint must be a dict of weights, got a {type(content).__name__}")
    entries = {str(name): to_tensor(value) for name, value in content.items()}
    found = {name: tensor for name, tensor in entries.items() if tensor is not None}
    if found and all(name.startswith("module.") for name in found):
        # Saved from inside DistributedDataParallel.
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pkl":
        return load_pickle(path), {}
    return _read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def _read_torch(path: Path) -> Any:
    _refuse_zip_bomb(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _offending_global(path, str(error))
        raise ValueError(
            f"{path} refused: it asks for {name}; only weights are read, and nothing was run"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a whole torch checkpoint: {reason}") from None


def _refuse_zip_bomb(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is not a whole torch checkpoint: {error}") from None
    stored = path.stat().st_size
    if unpacked > stored + ZIP_SLACK:
        raise ValueError(
            f"{path} refused: a zip bomb of {stored:,} bytes that unpacks to {unpacked:,}; "
            "torch stores weights uncompressed"
        )


def _offending_global(path: Path, message: str) -> str:
    """The global that torch refused, as its message or the archive's own pickle names it."""
    for pattern in (
        r"GLOBAL ([\w.]+)",
        r"Trying to load unsupported GLOBAL ([\w.]+)",
        r"callable object <[^>]*?([\w.]+)>",
    ):
        match = re.search(pattern, message)
        if match:
            return match[1]
    names = _globals_in(path)
    return names[0] if names else message.partition("\n")[0]


def _globals_in(path: Path) -> list[str]:
    """Globals of a torch file's pickle that are neither torch's nor plain containers."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.read(name)
        else:
            content = path.read_bytes()
        opcodes = [
            str(argument).replace(" ", ".")
            for opcode, argument, _ in pickletools.genops(content)
            if opcode.name in ("GLOBAL", "INST")
        ]
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile):
        return []
    return [name for name in opcodes if not name.startswith(("torch.", "collections.OrderedDict"))]

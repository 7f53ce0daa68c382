"""A spec's training cost by component, as a record holds it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from segmeter.encoders.chain import Sizes
from segmeter.harness.counting.training import OPTIMISERS, Training, count_training
from segmeter.harness.counting.work import check_size
from segmeter.harness.inputs import ImageSize, format_size
from segmeter.harness.models import ModelSpec, arguments, blaming, find_components, meta_model
from segmeter.words import nearest

GIGA = 1e9


def train_model(spec: ModelSpec, size: ImageSize, freeze: Sequence[str] = ()) -> Training:
    """Count one step of training at batch 1.

    Args:
        spec: the model.
        size: of its input.
        freeze: components or module paths whose parameters get no gradients, with all below them.

    Raises:
        ValueError: it cannot be built or does not run so, or a part to freeze that it does not have.
    """
    check_size(spec, size.padded)
    model, find = meta_model(spec), find_components(spec)
    parts: dict[str, set[str]] = {part: set() for part in freeze}

    def frozen(path: str) -> bool:
        module = path.rpartition(".")[0]
        for part, found in parts.items():
            if any(f"{name}.".startswith(f"{part}.") for name in (path, module, find(module))):
                found.add(path)
        return any(path in found for found in parts.values())

    sizes = Sizes(size.padded, size.padded, size.original)
    images = torch.empty((1, 3, *size.padded), device="meta")
    with blaming(f"{spec.encoder} cannot be trained at {format_size(size.padded)}"):
        counted = count_training(model, lambda copied: copied(*arguments(spec, images, sizes)), frozen)
    for part, found in parts.items():
        if not found:
            names = sorted({find(path).partition(".")[0] for path in counted.forward})
            raise ValueError(f"{spec.title} has no part {part!r} to freeze{nearest(part, names)}")
    return counted


def training_record(
    spec: ModelSpec, counted: Training, optimiser: str = "adamw", freeze: Sequence[str] = ()
) -> dict[str, Any]:
    """As plain data, in GMACs and bytes, by the components' first names; the total is their sum.

    Raises:
        ValueError: an unknown optimiser.
    """
    if optimiser not in OPTIMISERS:
        raise ValueError(f"unknown optimiser {optimiser!r}{nearest(optimiser, OPTIMISERS)}")
    macs, state = OPTIMISERS[optimiser]
    find = find_components(spec)
    columns: dict[str, Mapping[str, int]] = {
        "forward": _rows(counted.forward, find),
        "backward": _rows(counted.backward, find),
        "optimiser": {name: macs * n for name, n in _rows(counted.trained, find).items()},
    }
    kept, trained = _rows(counted.kept, find), _rows(counted.trained, find)
    names = [*dict.fromkeys(name for column in (*columns.values(), kept, trained) for name in column)]
    return {
        "optimiser": optimiser,
        "frozen": list(freeze),
        "components": {
            name: {
                **{f"{column}_gmacs": rows.get(name, 0) / GIGA for column, rows in columns.items()},
                "kept_bytes": kept.get(name, 0),
                "trained_params": trained.get(name, 0),
            }
            for name in names
        },
        "total": {
            **{f"{column}_gmacs": sum(rows.values()) / GIGA for column, rows in columns.items()},
            "kept_bytes": counted.kept.total(),
            "trained_params": counted.trained.total(),
        },
        "checkpointing": {
            "blocks": len(counted.blocks),
            "recomputed_gmacs": counted.recomputed / GIGA,
            "kept_bytes": counted.kept_with_checkpointing,
        },
        "optimiser_state_bytes": state * counted.trained.total(),
    }


def _rows(by_path: Mapping[str, int], find: Callable[[str], str]) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for path, amount in by_path.items():
        rows[find(path).partition(".")[0] or "other"] += amount
    return {name: amount for name, amount in rows.items() if amount}

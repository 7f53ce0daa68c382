"""Blocks of a transformer in which a reducer works; loads no model, so that a wrong one is told at once."""

from collections.abc import Iterable


def check_layers(layers: Iterable[int], name: str, where: str, last: int) -> None:
    """Raise ValueError unless all are whole numbers from 1 to the last; arguments as of ``layers_of``."""
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= last:
            raise ValueError(f"{where} 1 to {last}, got layer {layer} for {name}")


def check_exits(depth: int, exits: Iterable[int]) -> None:
    """Raise ValueError unless a transformer of ``depth`` blocks can be left after these."""
    exits = tuple(exits)
    if any(layer >= depth for layer in exits):
        raise ValueError(f"exits must be before the last of {depth} layers, got {','.join(map(str, exits))}")

"""Reducers of tokens of the user's own: ``reduction=mine.py:Mine`` (:mod:`encoders.reduction.interface`)."""

from typing import Any

from torch import nn

from segmeter.encoders.reduction.interface import ReducerKind
from segmeter.harness.models.own import blaming, check_own_options, load_own, own_title


def own_reducer(source: str) -> ReducerKind:
    """A reducer of tokens of the user's own; see :mod:`encoders.reduction.interface`.

    Raises:
        ValueError: as :func:`load_own`, or it builds no module.
    """
    own = load_own(source)

    def build(**given: Any) -> nn.Module:
        check_own_options(own, given)
        with blaming(f"{source} cannot be built"):
            module = own.build(**given)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{source} must build a torch.nn.Module, got {type(module).__name__}")
        return module

    return ReducerKind(
        name=source,
        title=own_title(source),
        summary="your own",
        source=source,
        build=build,
        takes_any=True,
        identity=own.identity,
    )

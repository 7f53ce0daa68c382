"""The visible table of reducers of tokens in a plain vision transformer."""

from collections.abc import Mapping

from segmeter.encoders.reduction.algm import ALGM
from segmeter.encoders.reduction.cts import CTS
from segmeter.encoders.reduction.interface import ReducerKind
from segmeter.encoders.reduction.step import STEP
from segmeter.encoders.reduction.tome import TOME
from segmeter.words import nearest

REDUCERS: dict[str, ReducerKind] = {kind.name: kind for kind in (ALGM, CTS, STEP, TOME)}


def named_reducer(name: str, known: Mapping[str, ReducerKind] = REDUCERS) -> ReducerKind:
    """A reducer by its name.

    Raises:
        ValueError: no such reducer; the nearest name is given.
    """
    if name not in known:
        raise ValueError(f"unknown reduction {name!r}{nearest(name, known)}")
    return known[name]

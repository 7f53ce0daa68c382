"""The visible table of systems: Mask2Former with each of the encoders, then every other system."""

from segmeter.encoders.chain import System
from segmeter.encoders.segmenter.model import masked_system
from segmeter.encoders.systems import (
    dino,
    eco_m2f,
    fc_clip,
    kmax,
    lite_dino,
    maskclip,
    maskdino,
    maskformer,
    pem,
    rap_sam,
    rt_detr,
    segformer,
    segmenter,
    yoso,
)
from segmeter.encoders.table import ENCODERS
from segmeter.words import nearest

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        *(masked_system(kind) for kind in ENCODERS.values()),
        maskformer.SYSTEM,
        pem.SYSTEM,
        yoso.SYSTEM,
        rap_sam.SYSTEM,
        kmax.SYSTEM,
        dino.SYSTEM,
        eco_m2f.SYSTEM,
        fc_clip.SYSTEM,
        maskclip.SYSTEM,
        lite_dino.SYSTEM,
        maskdino.SYSTEM,
        rt_detr.SYSTEM,
        segmenter.SYSTEM,
        segformer.SYSTEM,
    )
}


def find_system(name: str) -> System:
    """A system by its name.

    Raises:
        ValueError: no such system; the nearest name is given.
    """
    if name not in SYSTEMS:
        raise ValueError(f"unknown encoder {name!r}{nearest(name, SYSTEMS)}")
    return SYSTEMS[name]

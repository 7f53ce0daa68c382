"""The papers' rows as models: what a row's label describes, and short names for the rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segmeter.encoders.systems.table import SYSTEMS
from segmeter.harness.inputs import format_size
from segmeter.harness.models.reduction_presets import REDUCTION_PRESETS
from segmeter.harness.models.spec import ModelSpec, model_spec
from segmeter.harness.published import (
    CLASSES,
    FAMILY,
    PRO_SCALE,
    PublishedCell,
    PublishedRow,
    family_cells,
    published_rows,
)
from segmeter.model_text import ModelText
from segmeter.words import nearest

# Tables of other systems, some with PRO-SCALE's encoder.
HOST_TABLES = (1, 2, 8, 10, 11)
# The papers' names of systems that are called otherwise here, or alike.
PANOPTIC = {
    "maskformer": "maskformer",
    "pem": "pem",
    "yoso": "yoso",
    "rap-sam": "rap-sam",
    "remax": "kmax",
    "maskclip": "maskclip",
    "fc-clip": "fc-clip",
    "maskdino": "maskdino",
}
# The official Cityscapes configurations differ from COCO's: trained norms in the backbone, three layers.
CITYSCAPES_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "pem": ("r50-bn", {}),
    "yoso": ("r50-bn", {"fcs": 3}),
}
# The detectors of Table 8 with R50; its Swin-T figures under these names are Table 1's, of segmenters.
DETECTORS = {"dino": "dino", "lite-detr": "lite-dino", "rt-detr": "rt-detr"}


def spec_of(row: PublishedRow | PublishedCell) -> ModelSpec | None:
    """The model that a published row's label describes, or None where nothing here has that structure."""
    if row.dataset not in CLASSES or not row.backbone:
        return None
    if row.model not in FAMILY or row.variant.count(",") > 2:
        return _host_of(row)
    options: dict[str, Any] = {}
    if row.variant:
        options["stages"] = tuple(int(p) for p in row.variant.split(","))
    if row.modifier in ("+lpe", "lpe max-pooling"):
        options["pixel_embedding"] = "lpe"
    elif row.modifier == "+s1":
        options["pixel_embedding"] = "conv"
    elif row.modifier == "lpe avg-pooling":
        options["pixel_embedding"] = "lpe-avg"
    elif row.modifier.startswith("trc eps="):
        options["recalibration_temperature"] = float(row.modifier.removeprefix("trc eps="))
    elif row.modifier and not row.modifier.startswith("in21k"):
        return None
    return model_spec(row.model, row.backbone, num_classes=CLASSES[row.dataset], **options)


def _host_of(row: PublishedRow | PublishedCell) -> ModelSpec | None:
    """A row of the PRO-SCALE paper whose model is another system, maybe with PRO-SCALE inside."""
    if isinstance(row, PublishedRow) and row.paper != PRO_SCALE:
        return None
    options: dict[str, Any] = {}
    if row.variant:
        options = {"encoder": "pro-scale", "stages": tuple(int(p) for p in row.variant.split(","))}
    if row.model in PANOPTIC:
        return _panoptic_of(PANOPTIC[row.model], row, options)
    name = "dino" if row.model == "pro-scale" else DETECTORS.get(row.model)
    if name is None or row.backbone != "r50":
        return None
    # Each detector's own backbone: RT-DETR's is a variant of R50.
    return model_spec(name, num_classes=SYSTEMS[name].default_classes or CLASSES[row.dataset], **options)


def _panoptic_of(
    name: str, row: PublishedRow | PublishedCell, options: Mapping[str, Any]
) -> ModelSpec | None:
    if name == "fc-clip":
        # Printed with R50, for which it has no configuration; its figures are of Cityscapes' size.
        return model_spec(name, num_classes=CLASSES["cityscapes"], **options)
    backbone = row.backbone
    further: dict[str, Any] = {}
    if row.dataset == "cityscapes" and name in CITYSCAPES_OPTIONS:
        backbone, further = CITYSCAPES_OPTIONS[name]
    return model_spec(name, backbone, num_classes=CLASSES[row.dataset], **options, **further)


@dataclass(frozen=True)
class Preset:
    """A row of the paper as a model one can name.

    Attributes:
        model: as :func:`harness.models.spec.parse_model` reads it.
        dataset: "coco" or "cityscapes".
        source: the table and row it stands in first.
    """

    model: str
    dataset: str
    source: str


def all_presets() -> dict[str, Preset]:
    """The paper's rows under short names, e.g. "table2.4"; each model once for each data set."""
    found: dict[str, Preset] = {}
    seen: set[tuple[str, str]] = set()
    rows: list[PublishedCell | PublishedRow] = [*family_cells()]
    rows += [row for row in published_rows() if row.paper == PRO_SCALE and row.table in HOST_TABLES]
    for cell in rows:
        spec = spec_of(cell)
        if spec is None or (spec.text, cell.dataset) in seen:
            continue
        seen.add((spec.text, cell.dataset))
        where = f"PRO-SCALE, Table {cell.table}, row {cell.row}"
        found[f"table{cell.table}.{cell.row}"] = Preset(spec.text, cell.dataset, where)
    return found


def resolve_preset(text: str | None) -> str | None:
    """A preset's model for its name ("table2.4"); any other text as it is.

    Raises:
        ValueError: a name like a preset's that is none.
    """
    if text is not None and text.strip() in REDUCTION_PRESETS:
        return REDUCTION_PRESETS[text.strip()]
    if text is None or not re.fullmatch(r"table\d+(\.\d+)?", text.strip()):
        return text
    found = all_presets()
    if text.strip() not in found:
        raise ValueError(f"unknown preset {text!r}{nearest(text, list(found))}")
    return found[text.strip()].model


def usual_input(text: str, backbone: str | None = None) -> tuple[str | None, int | None]:
    """The size HxW and the number of classes that a model is counted at where none are given, if it has such.

    Args:
        text: a model as :func:`harness.models.spec.parse_model` reads it, or a preset's name.
        backbone: the one to take where the text names none.

    >>> usual_input("segmenter@vit-l"), usual_input("m2f")
    (('640x640', 150), (None, None))
    """
    written = ModelText.parse(resolve_preset(text) or "", SYSTEMS)
    system = SYSTEMS.get(written.name)
    if system is None:
        return None, None
    chosen = written.backbone or backbone or system.default_backbone
    if system.default_size is None or not system.backbones or chosen not in system.backbones:
        return None, system.default_classes
    return format_size(system.default_size(chosen, dict(written.options))), system.default_classes

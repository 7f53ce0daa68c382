"""What each GFLOPs cell of tables 1 to 11 should be measured with, or why it cannot be."""

from dataclasses import dataclass, replace

from segmeter.harness.counting import CONVENTION, count_model
from segmeter.harness.inputs import COCO_RULE, ImageSize, Size, pad
from segmeter.harness.models import ModelSpec, model_spec, spec_of
from segmeter.harness.published import CITYSCAPES_SIZE, FAMILY, PublishedCell
from segmeter.harness.records import GIGA

# Table 8 gives the segmentation figures of Table 1 under the names of the detectors they come from.
DETECTORS = {"lite-detr": "lite-m2f", "rt-detr": "rt-m2f"}
# Systems whose encoder is M2F's, or has PRO-SCALE's in its place, and what the reader must know of them.
HOSTS = {
    "maskclip": "",
    "fc-clip": "FC-CLIP's backbone is CLIP's ConvNeXt-L, and its figures are for 1024x2048; both are printed "
    "otherwise",
    "maskdino": "as MaskDINO's panoptic configuration has it",
}
OTHERS = {
    "maskformer": "MaskFormer's own figure; it does not pad its images",
    "pem": "",
    "yoso": "",
    "rap-sam": "",
    "remax": "ReMaX runs kMaX-DeepLab; it does not pad to multiples of 32",
}
# What the paper states for COCO: short side 800, long side at most 1333.
COCO_STATED: Size = pad((COCO_RULE.short, COCO_RULE.long))
SCOPES = {
    "family": "M2F, Lite-M2F, RT-M2F, PRO-SCALE and their LPE variants",
    "host": "another system whose encoder is M2F's or PRO-SCALE's, or a variant of it",
    "other": "another system",
}


@dataclass(frozen=True)
class Subject:
    """One cell with the model that it is measured with.

    Attributes:
        cell: the printed figure.
        spec: the model; None where the figure is not modelled, or has no model of ours (Table 3's C_1).
        scope: a key of :data:`SCOPES`.
        reason: why it is not modelled, or what the reader must know of the model chosen.
    """

    cell: PublishedCell
    spec: ModelSpec | None
    scope: str
    reason: str = ""

    @property
    def without_stride_4(self) -> bool:
        """Whether it is M2F without its stride-4 path, counted from M2F's parts."""
        return self.cell.model == "m2f" and self.cell.modifier == "-s1"

    @property
    def stated(self) -> Size:
        """The padded size that the row's label, or what is known of it, names."""
        at_cityscapes = self.cell.dataset == "cityscapes" or self.cell.model == "fc-clip"
        return CITYSCAPES_SIZE if at_cityscapes else COCO_STATED

    @property
    def is_stated(self) -> bool:
        """Whether that size is the one of the row's label."""
        return self.cell.model != "fc-clip"

    @property
    def is_a_mean(self) -> bool:
        """Whether it is a mean over COCO's images."""
        coco_total = self.cell.what == "total" and self.cell.dataset == "coco"
        return coco_total and self.cell.model != "fc-clip" and not self.cell.is_taken_over

    @property
    def is_modelled(self) -> bool:
        """Whether segmeter has a figure for it."""
        return self.spec is not None or self.without_stride_4


def subject_of(cell: PublishedCell) -> Subject:
    """The model that a cell is measured with, and which kind of system it belongs to."""
    if cell.model in FAMILY:
        return Subject(cell, spec_of(cell), "family")
    if cell.model in DETECTORS:
        name = DETECTORS[cell.model]
        spec = spec_of(replace(cell, model=name))
        return Subject(cell, spec, "family", f"the segmentation columns are those of {name} in Table 1")
    if cell.model in HOSTS:
        return Subject(cell, spec_of(cell), "host", HOSTS[cell.model])
    reason = OTHERS.get(cell.model, "")
    if cell.dataset == "coco" or cell.model == "remax":
        return Subject(cell, spec_of(cell), "other", reason)
    return Subject(cell, spec_of(cell), "other")


def cost_without_stride_4(backbone: str) -> float:
    """GMACs of M2F's encoder at 1024x2048 without its stride-4 path: masks are predicted at stride 8."""
    size = ImageSize(CITYSCAPES_SIZE, CITYSCAPES_SIZE)
    figures = count_model(model_spec("m2f", backbone), size, CONVENTION).figures
    path = figures.of("encoder.pixel_embedding")
    # The 1x1 convolution to mask features stays and runs on a quarter of the pixels.
    mask_features = figures.of("encoder.pixel_embedding.mask_features") / 4
    return (figures.of("encoder") - path + mask_features) / GIGA

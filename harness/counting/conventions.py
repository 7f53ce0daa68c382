"""The three counting conventions, and what each leaves out.

``published``
    What the papers print as "GFLOPs": MACs as fvcore counts them on the authors' code, in GMACs. Deformable
    sampling is invisible to it, and so is the query-key product of masked attention.
``macs``
    Every multiply-accumulate: ``published`` plus everything it does not count, in GMACs. Norms and resizing
    keep fvcore's weights, so that the two differ by the list of what is not counted and by nothing else.
    Softmax and other elementwise work has none; its FLOPs stand beside the total.
``flops``
    Floating-point operations in GFLOPs: 2 per multiply-accumulate, plus norm, softmax and elementwise work.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from segmeter.harness.counting.counter import Count, UnknownOp, Work

CONVENTIONS = {
    "published": "MACs as the papers' tool counts them; sampling and masked query-key products left out",
    "macs": "every multiply-accumulate, deformable sampling and both attention products included",
    "flops": "2 x MACs plus norm, softmax and elementwise work",
}
UNITS = {"published": "GMACs", "macs": "GMACs", "flops": "GFLOPs"}


@dataclass(frozen=True)
class Omission:
    """One kind of work that the published convention does not count, and why."""

    name: str
    title: str
    reason: str
    applies: Callable[[str, str], bool]


OMISSIONS = (
    Omission(
        "deformable_sampling",
        "deformable attention: bilinear sampling",
        "the compiled op is opaque to the papers' tracer",
        lambda component, operator: (
            operator == "deform_sampling" or (operator == "grid_sampler" and component.endswith(".sampling"))
        ),
    ),
    Omission(
        "deformable_weighting",
        "deformable attention: weighting of the samples",
        "the compiled op is opaque to the papers' tracer; traced, it is an elementwise product to fvcore",
        lambda component, operator: operator == "deform_weighting",
    ),
    Omission(
        "masked_attention_scores",
        "masked cross-attention: query-key product",
        "with a mask it runs as baddbmm, which fvcore does not know",
        lambda component, operator: (
            operator == "attention_scores" and component.startswith("decoder.cross_attention")
        ),
    ),
    Omission(
        "deformable_convolution",
        "modulated deformable convolution: the convolution",
        "a Python operator (or torchvision's), which fvcore does not know",
        lambda component, operator: operator == "deform_conv",
    ),
    Omission(
        "deformable_convolution_sampling",
        "modulated deformable convolution: bilinear sampling and its factors",
        "inside the same operator",
        lambda component, operator: operator == "deform_conv_sampling",
    ),
    Omission(
        "dynamic_convolution",
        "dynamic 1-d convolutions among the queries",
        'conv1d with padding "same" is traced as _convolution_mode, which fvcore does not know',
        lambda component, operator: operator == "conv" and component.endswith("dynamic_convolution"),
    ),
    Omission(
        "fused_attention",
        "attention in one fused call: both products",
        "torch's attention module calls scaled_dot_product_attention there, which fvcore does not know",
        lambda component, operator: (
            operator in ("attention_scores", "attention_values") and component.endswith(".fused_attention")
        ),
    ),
    Omission(
        "linear_resizing",
        "resizing of relative-position tables",
        "fvcore has no handle for upsample_linear1d",
        lambda component, operator: operator == "upsample_linear",
    ),
    Omission(
        "antialiased_resizing",
        "antialiased bicubic resizing of the image",
        "fvcore has no handle for _upsample_bicubic2d_aa",
        lambda component, operator: operator == "upsample_bicubic_antialiased",
    ),
    Omission(
        "position_resizing",
        "resizing of learned positions",
        "once for each size of image, not for each image; the official models are built for the size",
        lambda component, operator: component == "encoder.position_resizing",
    ),
    Omission(
        "local_similarities",
        "reducing tokens: cosines of pairs",
        "fvcore does not know cosine_similarity; a pair is a dot product",
        lambda component, operator: operator == "local_similarities",
    ),
    Omission(
        "token_norms",
        "reducing tokens: lengths of the tokens that are compared",
        "fvcore does not know linalg_vector_norm; a length is a token's dot product with itself",
        lambda component, operator: operator == "token_norms",
    ),
    Omission(
        "class_map_upsampling",
        "enlarging of the class maps to the image",
        "the papers' figures end at the head's own stride",
        lambda component, operator: component == "postprocess.class_map_upsampling",
    ),
)

# Where the papers' tool books work that runs elsewhere in the official code: component -> place, and the
# operators it is of. An FPN's resizing is a plain call in the official heads, outside the pixel decoder's own
# modules, so it goes with the heads' other resizing, as MaskCLIP's masks do. CLIP's image head is a part of
# FC-CLIP's backbone.
PUBLISHED_PLACES = {
    "encoder.pixel_embedding.upsampling": ("postprocess.fpn_upsampling", "upsample"),
    "encoder.fpn.upsampling": ("postprocess.fpn_upsampling", "upsample"),
    "clip.resizing": ("postprocess.clip_resizing", "upsample"),
    "postprocess.clip_head": ("backbone.clip_head", ""),
}


def published_place(component: str, operator: str) -> str:
    """The component that the published convention books an operator's work under."""
    place, operators = PUBLISHED_PLACES.get(component, (component, ""))
    return place if operator.startswith(operators) else component


@dataclass(frozen=True)
class Figures:
    """A count seen through one convention.

    Attributes:
        convention: a key of :data:`CONVENTIONS`.
        by_component: dotted component -> units of work (MACs or FLOPs), its own without its children's.
            Whole numbers for one input, means over a data set.
        by_operator: operator -> units of work.
        not_counted: omission name -> MACs left out; unknown operators -> None.
        counted_flops: FLOPs of the work that the convention counts.
        all_flops: FLOPs of all work that has a formula.
        least, most: units of work in all that branches (``torch.cond``) leave possible.
        unknown: operators without a formula, with their places and shapes.
        moves: comparisons of sorting, bytes of gathering (:mod:`harness.counting.moves`); in no total.
        without_macs: operator -> FLOPs of work that has no multiply-accumulates: softmax, elementwise work,
            pooling. Part of the total under ``flops`` alone.
    """

    convention: str
    by_component: dict[str, float]
    by_operator: dict[str, float]
    not_counted: dict[str, float | None]
    counted_flops: float
    all_flops: float
    least: float
    most: float
    unknown: tuple[UnknownOp, ...] = ()
    moves: Mapping[str, float] = field(default_factory=dict)
    without_macs: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Units of work in all."""
        return sum(self.by_component.values())

    @property
    def coverage(self) -> float | None:
        """Counted share of all estimated work, both in FLOPs, in [0, 1]; None where one has no formula."""
        if self.unknown:
            return None
        return self.counted_flops / self.all_flops if self.all_flops else 1.0

    def of(self, component: str) -> float:
        """Units of work of a component with everything below it."""
        return sum(
            units
            for name, units in self.by_component.items()
            if name == component or name.startswith(component + ".")
        )


def apply_convention(count: Count, find_component: Callable[[str], str], convention: str) -> Figures:
    """See a count through a convention.

    Args:
        count: the work of one forward pass.
        find_component: module path -> dotted component (:func:`harness.models.components.component_finder`).
        convention: a key of :data:`CONVENTIONS`.
    """
    by_component: defaultdict[str, int] = defaultdict(int)
    by_operator: defaultdict[str, int] = defaultdict(int)
    not_counted: dict[str, float | None] = {}
    # Components whose work is left out stay in sight, at 0.
    passed_over: set[str] = set()
    counted_flops = 0
    for work in count.work:
        component = find_component(work.module)
        omission = _omission(component, work.operator) if convention == "published" else None
        if omission is not None:
            not_counted[omission.name] = (not_counted.get(omission.name) or 0) + work.macs
            passed_over.add(component)
            continue
        units = work.flops if convention == "flops" else work.macs
        if convention == "published":
            component = published_place(component, work.operator)
        if units or convention == "flops":
            counted_flops += work.flops
        by_component[component] += units
        if units:
            by_operator[work.operator] += units
    left_out = sum(units for units in not_counted.values() if units is not None)
    everything = count.flops if convention == "flops" else count.macs
    if sum(by_component.values()) + left_out != everything:
        raise AssertionError("the components and what is left out do not add up to the whole")
    for unknown in count.unknown:
        not_counted[unknown.operator] = None
    least, most = count.between(lambda work: units_of(work, find_component(work.module), convention))
    return Figures(
        convention=convention,
        by_component={
            name: by_component[name]
            for name in [*by_component, *sorted(passed_over - by_component.keys())]
            if by_component[name] or name in passed_over
        },
        by_operator=dict(by_operator),
        not_counted=not_counted,
        counted_flops=counted_flops,
        all_flops=count.flops,
        least=least,
        most=most,
        unknown=count.unknown,
        moves=_moves(count),
        without_macs=_without_macs(count),
    )


def _without_macs(count: Count) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for work in count.work:
        if work.flops and not work.macs:
            found[work.operator] += work.flops
    return dict(found)


def _moves(count: Count) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for moved in count.moves:
        found[moved.kind] += moved.amount
    return dict(found)


def units_of(work: Work, component: str, convention: str) -> int:
    """Units of work that a convention counts of it: MACs, or FLOPs under ``flops``; 0 if it is left out."""
    if convention == "published" and _omission(component, work.operator) is not None:
        return 0
    return work.flops if convention == "flops" else work.macs


@lru_cache(maxsize=65536)
def _omission(component: str, operator: str) -> Omission | None:
    for omission in OMISSIONS:
        if omission.applies(component, operator):
            return omission
    return None


def mean_figures(weighted: Sequence[tuple[Figures, int]]) -> Figures:
    """Mean of figures of one convention, each weighted by its number of images."""
    images = sum(n for _, n in weighted)

    def mean(values: Callable[[Figures], Mapping[str, float | None]]) -> dict[str, float | None]:
        sums: dict[str, float | None] = {}
        for figures, n in weighted:
            for name, value in values(figures).items():
                before = sums.get(name, 0)
                sums[name] = None if value is None or before is None else before + value * n / images
        return sums

    return Figures(
        convention=weighted[0][0].convention,
        by_component={k: v for k, v in mean(lambda f: f.by_component).items() if v is not None},
        by_operator={k: v for k, v in mean(lambda f: f.by_operator).items() if v is not None},
        not_counted=mean(lambda f: f.not_counted),
        counted_flops=sum(f.counted_flops * n for f, n in weighted) / images,
        all_flops=sum(f.all_flops * n for f, n in weighted) / images,
        least=sum(f.least * n for f, n in weighted) / images,
        most=sum(f.most * n for f, n in weighted) / images,
        unknown=tuple({(u.module, u.operator): u for f, _ in reversed(weighted) for u in f.unknown}.values()),
        moves={k: v for k, v in mean(lambda f: f.moves).items() if v is not None},
        without_macs={k: v for k, v in mean(lambda f: f.without_macs).items() if v is not None},
    )

"""Claims of the papers that cut tokens: which follow from arithmetic, and which need weights or a clock.

ALGM's README table, SegFormer's published GFLOPs, Segformer++'s speed-ups beside its MACs, STEP's abstracts.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from segmeter.encoders.backbones.vit import VITS
from segmeter.harness.counting import CONVENTION, count_model, versions
from segmeter.harness.inputs import ImageSize, parse_size
from segmeter.harness.models import parse_model
from segmeter.harness.published import PublishedRow, published_rows

SCHEMA = "segmeter.reduction_audit/1"
PAPERS = ("algm", "segformer", "segformer++", "step")
VERDICTS = {
    "follows": "counted here, it is the printed figure to the digits that are printed, or to 0.15 %",
    "differs": "counted here, it is another figure",
    "needs weights": "it depends on which tokens trained weights merge",
    "needs a clock": "it is a time; the counted saving stands beside it",
    "possible": "arithmetic allows it; no table or code says how it was reached",
    "in part": "it follows under another reading, which the note gives",
}
CLASSES = {"ade20k": 150, "pascal_context": 60, "cityscapes": 19}
NEAR = 0.0015
BARE = ("layer_norm", "batch_norm", "upsample_bilinear", "upsample_nearest")


@dataclass(frozen=True)
class AuditedClaim:
    """One printed figure: ``measured`` is what is counted here, in GMACs or as a ratio; None for nothing."""

    table: str
    row: int
    model: str
    what: str
    printed: str
    measured: float | None
    verdict: str
    note: str


def audit_reduction(paper: str, step: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Audit one of :data:`PAPERS`.

    Args:
        paper: whose figures.
        step: called with what is audited next.

    Returns:
        The record, ready for JSON.
    """
    audit = {"algm": _algm, "segformer": _segformer, "segformer++": _segformer_pp, "step": _step}[paper]
    found = []
    for row in published_rows():
        if row.paper == paper and row.metric in _METRICS[paper]:
            step(f"{row.title}, row {row.row}")
            found.append(audit(row))
    return {
        "schema": SCHEMA,
        "paper": paper,
        "convention": CONVENTION,
        "verdicts": VERDICTS,
        "claims": [asdict(claim) for claim in found],
        "versions": versions(),
    }


_METRICS = {
    "algm": ("gflops_total",),
    "segformer": ("gflops_total",),
    "segformer++": ("speedup",),
    "step": (
        *("token_reduction_x", "gflops_reduction_x", "throughput_gain_x", "speedup"),
        *("tokens_halted_pct", "max_accuracy_drop_pct"),
    ),
}


def reduction_steps(paper: str) -> int:
    """How often :func:`audit_reduction` calls ``step``."""
    return sum(row.paper == paper and row.metric in _METRICS[paper] for row in published_rows())


def _claim(row: PublishedRow, measured: float | None, verdict: str, note: str) -> AuditedClaim:
    model = f"{row.label} {row.backbone}".strip()
    return AuditedClaim(row.title, row.row, model, row.metric, row.printed, measured, verdict, note)


def gmacs(text: str, size: str, num_classes: int, bare: bool = False) -> float:
    """GMACs of a model as the papers count, without norms and resizing if ``bare``."""
    padded = parse_size(size)
    figures = count_model(
        parse_model(text, num_classes=num_classes), ImageSize(padded, padded), CONVENTION
    ).figures
    left_out = sum(figures.by_operator.get(name, 0) for name in BARE) if bare else 0
    return (figures.total - left_out) / 1e9


def _algm(row: PublishedRow) -> AuditedClaim:
    backbone = row.backbone.partition("/")[0]
    side = int(row.image_size.partition("x")[0])
    whole = gmacs(f"segmenter@{backbone}:train_size={side}", row.image_size, CLASSES[row.dataset])
    if "algm" not in row.modifier:
        digits = len(row.printed.partition(".")[2])
        verdict = "follows" if f"{whole:.{digits}f}" == row.printed else "differs"
        return _claim(row, whole, verdict, "all tokens")
    kept = tokens_for(row.value * 1e9, backbone, side, CLASSES[row.dataset])
    number = (side // 16) ** 2
    note = (
        f"{100 * (1 - row.value / whole):.1f} % below {whole:.1f}: as if {kept} of {number} patches were "
        "left from the first block on; a mean over the validation images, which are squeezed to a square"
    )
    return _claim(row, None, "needs weights", note)


def vit_macs(backbone: str, tokens: int) -> int:
    """MACs of a transformer's blocks on so many tokens, the class token included."""
    size = VITS[backbone]
    return size.depth * (10 * tokens * size.dim + 12 * tokens * size.dim**2 + 2 * tokens**2 * size.dim)


def tokens_for(macs: float, backbone: str, side: int, classes: int) -> int:
    """Patches left behind the first block's attention with which a Segmenter costs so many MACs.

    The closed form of the counted work: :mod:`tests` hold it to the counter.
    """
    number = (side // 16) ** 2
    return max(
        (kept for kept in range(number + 1) if segmenter_macs(backbone, side, classes, kept) <= macs),
        default=0,
    )


def segmenter_macs(backbone: str, side: int, classes: int, kept: int) -> int:
    """MACs of a Segmenter at side x side pixels with ``kept`` patches left behind the first attention."""
    size, number = VITS[backbone], (side // 16) ** 2
    d, t = size.dim, kept + classes

    def attention(tokens: int) -> int:
        return 5 * tokens * d + 4 * tokens * d * d + 2 * tokens * tokens * d

    def mlp(tokens: int) -> int:
        return 5 * tokens * d + 8 * tokens * d * d

    encoder = 768 * number * d + attention(number + 1) + mlp(kept + 1)
    encoder += (size.depth - 1) * (attention(kept + 1) + mlp(kept + 1)) + 5 * (kept + 1) * d
    decoder = 2 * kept * d * d + classes * d * d + 2 * (attention(t) + mlp(t)) + 5 * t * d
    return encoder + decoder + kept * classes * d + 5 * kept * classes + 4 * classes * side * side


def _segformer(row: PublishedRow) -> AuditedClaim:
    classes = CLASSES[row.dataset]
    measured = gmacs(f"segformer@{row.backbone}", row.image_size, classes, bare=True)
    if abs(measured / row.value - 1) <= NEAR:
        return _claim(
            row, measured, "follows", "without norms and resizing, as the repository's counter counts"
        )
    with_ade = gmacs(f"segformer@{row.backbone}", row.image_size, CLASSES["ade20k"], bare=True)
    if abs(with_ade / row.value - 1) <= NEAR:
        note = (
            f"with {classes} classes {measured:.1f}; a head of 150 classes fits, which gives {with_ade:.1f}"
        )
        return _claim(row, measured, "in part", note)
    return _claim(row, measured, "differs", f"with {classes} classes")


def _segformer_pp(row: PublishedRow) -> AuditedClaim:
    if row.variant not in ("hq", "fast", "2x2"):
        return _claim(row, None, "needs a clock", "a smaller image, not a merging")
    is_stated = "x" in row.image_size and row.dataset in CLASSES
    size = row.image_size if is_stated else "1024x1024"
    base, merged = (
        gmacs(f"segformer@mit-b5:head=mmseg:merging={name}", size, CLASSES.get(row.dataset, 19))
        for name in ("none", row.variant)
    )
    ratio = base / merged
    note = f"{base:.1f} to {merged:.1f} GMACs at {size}; "
    if row.value > ratio:
        note += "time fell by more: softmax and the traffic of attention maps are in no count"
    else:
        note += "time fell by less, as it does where matching, data or a backward pass take their share"
    if not is_stated:
        note += "; the size is Cityscapes' crop, none being printed"
    return _claim(row, ratio, "needs a clock", f"{note}; the GPU is not stated")


STEP_SIDES = (512, 640, 1024)
FEWER, HALTED, HALTED_BEHIND = 2.5, 0.4, 16


def _step_ratio(side: int, halted: float, fewer: float = FEWER) -> float:
    """MACs of ViT-L's blocks on all tokens of side x side pixels, over those on so many times fewer tokens.

    Of those a share is halted behind block 16.
    """
    number, size = (side // 16) ** 2, VITS["vit-l"]
    first, last = round(number / fewer), round(number / fewer * (1 - halted))
    share = HALTED_BEHIND / size.depth
    left = share * vit_macs("vit-l", first) + (1 - share) * vit_macs("vit-l", last)
    return vit_macs("vit-l", number) / left


def _step(row: PublishedRow) -> AuditedClaim:
    if row.metric == "token_reduction_x":
        return _claim(
            row, None, "needs weights", "the policy network chooses; neither code nor weights are public"
        )
    if row.metric == "gflops_reduction_x":
        is_whole = "full" in row.label.lower()
        blocks = {side: _step_ratio(side, HALTED if is_whole else 0.0) for side in STEP_SIDES}
        told = ", ".join(f"{ratio:.2f} at {side}" for side, ratio in blocks.items())
        how = f"2.5 times fewer tokens{' and 40 % of them halted behind block 16' if is_whole else ''}"
        note = f"{how} make ViT-L's blocks alone cost {told} times less; networks and heads come on top"
        if max(blocks.values()) < row.value:
            note += "; more than that, as the claim has it, takes images that lose more than the mean"
        return _claim(row, blocks[STEP_SIDES[0]], "possible", note)
    if row.metric == "tokens_halted_pct":
        saved = 100 * (1 - 1 / _step_ratio(512, HALTED, fewer=1))
        note = (
            f"40 % of the tokens halted behind block 16 of 24 save {saved:.1f} % of the blocks' MACs at "
            "512x512, before the exit heads' own: early exit alone cannot give the claimed factors"
        )
        return _claim(row, None, "needs weights", note)
    if row.metric == "max_accuracy_drop_pct":
        return _claim(row, None, "needs weights", "no weights are public")
    note = "a time; superpatches alone are said to gain 3.4 times and the whole 1.7: the exits cost time"
    return _claim(row, None, "needs a clock", note)

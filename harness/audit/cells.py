"""Every GFLOPs cell of tables 1 to 11, measured: at the stated size, at a solved real size, or explained."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from segmeter.harness.audit.means import (
    FIRST_IMAGES,
    Sample,
    Target,
    mean_pixels,
    mean_total,
    size_set,
    solve_prefixes,
    solve_samples,
)
from segmeter.harness.audit.subjects import (
    COCO_STATED,
    DETECTORS,
    Subject,
    cost_without_stride_4,
    subject_of,
)
from segmeter.harness.audit.tried import what_was_tried
from segmeter.harness.counting import (
    CONVENTION,
    CostModel,
    cost_model,
    count_model,
    real_padded_sizes,
    real_sizes_costing,
)
from segmeter.harness.inputs import COCO_RULE, ImageSize, Size, SizeSet, dataset_sizes, format_size
from segmeter.harness.models import ModelSpec
from segmeter.harness.published import CITYSCAPES_SIZE, FAMILY, PublishedCell, gflops_cells
from segmeter.harness.records import GIGA

# Met as the paper states it; a figure that something was solved for is only consistent with what was found.
REPRODUCED = ("stated size",)
CONSISTENT = ("solved size", "solved mean")
VERDICTS = {
    "stated size": "reproduced at the stated size; COCO totals: by the mean over the tool's first 100 images",
    "solved size": "consistent with a real image's padded size that the encoder's cost was solved for",
    "solved mean": "consistent with a mean over real images that several totals were solved for at once",
    "not reproduced": "measured, and met by none of these",
    "not modelled": "segmeter has no model of it; the reason is given",
}
PRINTS = {
    "rounded": "rounds to the printed figure",
    "rounded twice": "rounded to the counting tool's three decimals, then to the paper's two",
    "cut off": "is the printed figure if the last digits are cut off instead of rounded",
}
ROUNDING_NOISE = 1e-9
# Half of val2017's images have one of these sizes.
FREQUENT_IMAGES: tuple[Size, ...] = ((480, 640), (427, 640), (640, 480), (640, 427))


@dataclass(frozen=True)
class AuditedCell:
    """One printed figure beside what was measured for it.

    Attributes:
        subject: the figure and the model it is measured with.
        measured: GMACs in the published convention, None where it is not modelled.
        size: where it was measured, in words.
        padded: the padded size; None for a mean or where it is not modelled.
        verdict: a key of :data:`VERDICTS`.
        print: how the printed figure follows, a key of :data:`PRINTS`; "" where it does not.
        note: what a reader must know.
        stated: GMACs at what the paper states, whatever it was met at; None where that is not known.
    """

    subject: Subject
    measured: float | None
    size: str
    padded: Size | None
    verdict: str
    print: str
    note: str
    stated: float | None = None

    @property
    def cell(self) -> PublishedCell:
        """The printed figure."""
        return self.subject.cell

    @property
    def difference_percent(self) -> float | None:
        """Measured against published, in percent."""
        return None if self.measured is None else 100 * (self.measured / self.cell.value - 1)


def print_ranges(cell: PublishedCell) -> dict[str, tuple[float, float]]:
    """How a figure may have come to be printed -> the range of GMACs that gives it.

    The counting tool prints an encoder's figure to three decimals, in G up to 100 G and in T above, so that
    from 100 GMACs on only whole ones are left; the mean of the total has one decimal.
    """
    half = cell.step / 2 + ROUNDING_NOISE
    ranges = {"rounded": (cell.value - half, cell.value + half)}
    if cell.step == 0.01:
        ranges["rounded twice"] = (cell.value - half - 0.0005, cell.value + half)
    if cell.step < 1:
        ranges["cut off"] = (cell.value, cell.value + cell.step)
    return ranges


def how_printed(cell: PublishedCell, measured: float) -> str:
    """The first way in which ``measured`` GMACs would be printed as this figure; "" if none."""
    for how, (low, high) in print_ranges(cell).items():
        if low <= measured <= high:
            return how
    return ""


def audit_cells(
    tables: Collection[int],
    images: Sequence[ImageSize] | None = None,
    step: Callable[[str], None] = lambda what: None,
) -> list[AuditedCell]:
    """Audit every GFLOPs cell of these tables.

    COCO totals that need other images than the first 100 are solved for together over all tables, so that a
    cell's verdict does not depend on which tables are asked for.

    Args:
        tables: numbers from 1 to 11.
        images: an annotation file's images by id; they take the place of the first 100 of val2017.
        step: called with what is audited next.
    """
    asked = gflops_cells(tables)
    means: dict[PublishedCell, AuditedCell] = {}
    if any(cell.what == "total" and cell.dataset == "coco" for cell in asked):
        step("means over real images")
        means = _mean_cells(images)
    audited = []
    known: set[int] = set()
    for cell in asked:
        if cell.table not in known:
            known.add(cell.table)
            step(f"table {cell.table}")
        subject = subject_of(cell)
        if not subject.is_modelled:
            audited.append(AuditedCell(subject, None, "-", None, "not modelled", "", subject.reason))
        elif subject.is_a_mean:
            audited.append(means[cell])
        elif cell.is_taken_over:
            audited.append(_unpadded(subject))
        else:
            audited.append(audit_one_size(subject))
    return audited


def audit_one_size(subject: Subject) -> AuditedCell:
    """A figure of one input: at the stated size, or at the real size that gives it."""
    cell = subject.cell
    stated = subject.stated
    met = "stated size" if subject.is_stated else "solved size"
    if subject.without_stride_4:
        measured = cost_without_stride_4(cell.backbone)
        return _with_verdict(subject, measured, stated, "stated size", "")
    assert subject.spec is not None
    if cell.what == "total":
        measured = _total(subject.spec, ImageSize(stated, stated))
        return _with_verdict(subject, measured, stated, met, subject.reason)
    model = cost_model(subject.spec)
    at_stated = model.encoder(stated)
    if stated == CITYSCAPES_SIZE or how_printed(cell, at_stated):
        return _with_verdict(subject, at_stated, stated, met, subject.reason)
    for low, high in print_ranges(cell).values():
        candidates = real_sizes_costing(model, low, high)
        if candidates:
            note = _solved_note(at_stated, candidates)
            found = candidates[0]
            return _with_verdict(
                subject, model.encoder(found), found, "solved size", _join(subject.reason, note)
            )
    fewest, most = model.pixels_for(*print_ranges(cell)["rounded"])
    needed = f"{fewest / 1e3:.0f}" if fewest >= most else f"{fewest / 1e3:.0f} to {most / 1e3:.0f}"
    largest = max(h * w for h, w in real_padded_sizes())
    note = (
        f"needs {needed} thousand padded pixels, which no COCO image has under the resize rule "
        f"(at most {largest / 1e3:.0f})"
    )
    return _with_verdict(subject, at_stated, stated, "stated size", _join(subject.reason, note))


def _unpadded(subject: Subject) -> AuditedCell:
    """A figure of another paper, whose images are not padded: of a frequent size, or a mean."""
    spec, cell = subject.spec, subject.cell
    assert spec is not None
    for original in FREQUENT_IMAGES:
        size = ImageSize(COCO_RULE.apply(original), original)
        measured = _total(spec, size)
        if how_printed(cell, measured):
            note = _join(subject.reason, f"images of {format_size(original)} pixels as they are resized")
            return _with_verdict(subject, measured, size.padded, "solved size", note)
    first = dataset_sizes(FIRST_IMAGES)
    totals = (
        _total(spec, ImageSize(COCO_RULE.apply(size.original), size.original)) * images
        for size, images in first.images.items()
    )
    measured = sum(totals) / first.total
    how = how_printed(cell, measured)
    verdict = "stated size" if how else "not reproduced"
    note = _join(subject.reason, "" if how else what_was_tried(cell, measured))
    return AuditedCell(subject, measured, "mean of first 100 images, not padded", None, verdict, how, note)


def _total(spec: ModelSpec, size: ImageSize) -> float:
    return count_model(spec, size, CONVENTION).figures.total / GIGA


def _with_verdict(subject: Subject, measured: float, size: Size, met: str, note: str) -> AuditedCell:
    how = how_printed(subject.cell, measured)
    verdict = met if how else "not reproduced"
    if not how:
        note = _join(note, what_was_tried(subject.cell, measured) or _explanation(subject))
    elif how == "cut off":
        note = _join(note, "met with the last digits cut off, not rounded")
    return AuditedCell(subject, measured, format_size(size), size, verdict, how, note)


def _solved_note(at_stated: float, candidates: Sequence[Size]) -> str:
    return f"{format_size(COCO_STATED)} would cost {at_stated:.2f}; {_images_note(candidates)}"


def _images_note(candidates: Sequence[Size]) -> str:
    found = candidates[0]
    note = f"{real_padded_sizes()[found]} images of val2017 pad to {format_size(found)}"
    others = [format_size(size) for size in candidates[1:]]
    if others:
        note += f"; as well {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
    return note


def _explanation(subject: Subject) -> str:
    """Which other model of the tables costs what is printed, if any."""
    known = _family_costs()
    low, high = print_ranges(subject.cell)["rounded"]
    found = [
        f"the encoder of {title} at {format_size(size)} ({gmacs:.2f})"
        for title, size, gmacs in known
        if low <= gmacs <= high
    ]
    if not found:
        sizes = len({size for _, size, _ in known})
        return f"no encoder of the tables costs this: {len(known)} tried, at {sizes} sizes"
    return f"it is what {' and '.join(found[:2])} costs ({len(known)} tried)"


@lru_cache(maxsize=1)
def _family_costs() -> tuple[tuple[str, Size, float], ...]:
    """Title, padded size and GMACs of each encoder of the tables' family, at each size that is frequent."""
    models: dict[tuple[object, ...], tuple[str, CostModel]] = {}
    for cell in gflops_cells(range(1, 12)):
        candidate = subject_of(replace(cell, what="encoder"))
        spec = candidate.spec
        if spec is not None and candidate.scope == "family":
            model = cost_model(spec)
            models.setdefault(
                (spec.encoder, spec.options, model.encoder(CITYSCAPES_SIZE)), (spec.title, model)
            )
    sizes = (CITYSCAPES_SIZE, *(size for size, n in real_padded_sizes().items() if n >= 300))
    return tuple((title, size, model.encoder(size)) for title, model in models.values() for size in sizes)


def _mean_cells(images: Sequence[ImageSize] | None) -> dict[PublishedCell, AuditedCell]:
    """The COCO totals of all tables: each a mean over real images."""
    subjects = [subject_of(cell) for cell in gflops_cells(range(1, 12))]
    totals = [s for s in subjects if s.spec and s.is_a_mean]
    stated: list[tuple[str, SizeSet]]
    if images is None:
        stated = [("first 100 images", dataset_sizes(FIRST_IMAGES))]
    else:
        stated = [
            (name, size_set(name, part, "annotations"))
            for name, part in (
                (f"first {min(100, len(images))} images of the file", images[:100]),
                (f"all {len(images)} images of the file", images),
            )
        ]
    found: dict[PublishedCell, AuditedCell] = {}
    left: list[Subject] = []
    for subject in totals:
        for name, sizes in stated:
            measured = mean_total(_model(subject), sizes)
            how = how_printed(subject.cell, measured)
            if how == "rounded":
                text = f"mean of {name}"
                found[subject.cell] = AuditedCell(
                    subject, measured, text, None, "stated size", how, subject.reason, measured
                )
                break
        else:
            left.append(subject)
    samples: list[Sample] = []
    # The paper's own models first: another system's total may be of other images, and takes theirs if it can.
    # Of other systems MaskDINO's two rows are solved for; the rest are held to the samples that are found.
    for models in ((*FAMILY, *DETECTORS), ("maskdino",)):
        targets = [
            Target(_model(s), *print_ranges(s.cell)["rounded"]) for s in left if s.cell.model in models
        ]
        samples += solve_samples(targets) if images is None else solve_prefixes(targets, images)
    for subject in left:
        found[subject.cell] = _solved_mean(subject, samples, *stated[0])
    return found


def _solved_mean(subject: Subject, samples: Sequence[Sample], name: str, first: SizeSet) -> AuditedCell:
    cell = subject.cell
    at_first = mean_total(_model(subject), first)
    for sample in samples:
        measured = mean_total(_model(subject), sample.sizes)
        how = how_printed(cell, measured)
        if how != "rounded":
            continue
        note = (
            f"the {name} give {at_first:.2f}; met by {sample.text}: a mean of "
            f"{mean_pixels(sample.sizes):,.0f} padded pixels, against {mean_pixels(first):,.0f}; one sample "
            f"for {sample.models} models ({sample.tried:,} tried)"
        )
        size = f"mean of {sample.sizes.total} real images"
        note = _join(subject.reason, note)
        return AuditedCell(subject, measured, size, None, "solved mean", how, note, at_first)
    off = 100 * (at_first / cell.value - 1)
    note = f"the {name} give it to {off:+.2f} %; no sample of real images was found to give it"
    note = _join(subject.reason, note, what_was_tried(cell, at_first))
    return AuditedCell(subject, at_first, f"mean of {name}", None, "not reproduced", "", note, at_first)


def _model(subject: Subject) -> CostModel:
    assert subject.spec is not None
    return cost_model(subject.spec)


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)

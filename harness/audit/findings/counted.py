"""Findings on statements of a paper's text that only counting settles: no printed figures give them."""

from collections.abc import Sequence

from segmeter.harness.audit.cells import AuditedCell
from segmeter.harness.audit.findings.sentences import Finding, finding, place
from segmeter.harness.audit.means import FIRST_IMAGES, mean_total
from segmeter.harness.counting import cost_model
from segmeter.harness.inputs import dataset_sizes, format_size
from segmeter.harness.models import model_spec
from segmeter.harness.published import CITYSCAPES_SIZE, Claim

# A share is printed to two decimals, of figures that are rounded themselves.
SHARE_AGREES = 0.05
# What the text says LPE saves of the encoder, in percent.
CLAIMED_BY_LPE = 40


def counted_findings(audited: Sequence[AuditedCell], claims: Sequence[Claim]) -> list[Finding]:
    """All findings on statements that were counted."""
    return [*_shares(audited, claims), *_light_pixel_embedding()]


def _shares(audited: Sequence[AuditedCell], claims: Sequence[Claim]) -> list[Finding]:
    """An encoder's share of its model: both over the same images, which the printed figures are not."""
    by_place = {(a.cell.table, a.cell.row, a.cell.dataset, a.cell.what): a for a in audited}
    sentences, tables = [], []
    for claim in claims:
        if claim.kind != "share":
            continue
        table, row, data, _ = claim.cells[0]
        encoder = by_place.get((table, row, data, "encoder"))
        total = by_place.get((table, row, data, "total"))
        if not encoder or not total or not encoder.subject.spec:
            continue
        model = cost_model(encoder.subject.spec)
        images = dataset_sizes(FIRST_IMAGES)
        own = sum(model.encoder(size.padded) * n for size, n in images.images.items()) / images.total
        whole = mean_total(model, images)
        share = 100 * own / whole
        if abs(share - claim.claimed) <= SHARE_AGREES:
            continue
        printed = 100 * encoder.cell.value / total.cell.value
        sentences.append(
            f"{claim.place[0].upper()}{claim.place[1:]}, {claim.told}: both counted over the first "
            f"{images.total} images of val2017 it is {share:.2f} % ({own:.2f} of {whole:.2f}), "
            f"{abs(share - claim.claimed):.1f} points off. {place(encoder.cell)} prints "
            f"{encoder.cell.value:.2f} and {total.cell.value:.2f}: these give {printed:.2f} %, but the first "
            "is one image's and the second a mean."
        )
        tables.append(table)
    return finding(
        "shares",
        "The encoder's shares, counted over the same images as the totals, are others",
        sentences,
        tables,
    )


def _light_pixel_embedding() -> list[Finding]:
    """What LPE takes off an encoder depends on the encoder: counted for each at one size."""
    sentences = []
    shares = []
    for stages in ((1, 1, 1), (2, 2, 2), (3, 3, 3)):
        light, heavy = (
            cost_model(model_spec("pro-scale", "swin-t", stages=stages, pixel_embedding=embedding)).encoder(
                CITYSCAPES_SIZE
            )
            for embedding in ("lpe", "conv")
        )
        shares.append(100 * (1 - light / heavy))
        sentences.append(
            f"PRO-SCALE ({','.join(map(str, stages))}): {light:.2f} with it, {heavy:.2f} with M2F's 3x3 "
            f"convolution, {-shares[-1]:.1f} %."
        )
    if any(abs(share - CLAIMED_BY_LPE) < 0.5 for share in shares):
        return []
    return finding(
        "lpe-saving",
        f"LPE's saving is counted as {min(shares):.1f} to {max(shares):.1f} %, said to be about "
        f"{CLAIMED_BY_LPE} %",
        [f"At {format_size(CITYSCAPES_SIZE)}, GMACs of the encoder:", *sentences],
        (4,),
    )

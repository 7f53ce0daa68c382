"""What an audit finds, in sentences. Every sentence is made from the data; none is written down as it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segmeter.encoders.backbones.table import BACKBONES
from segmeter.harness.published import DATASET_NAMES, TITLES, PublishedCell, PublishedRow


@dataclass(frozen=True)
class Finding:
    """One thing the audit found.

    Attributes:
        id: a short name that stays the same from run to run.
        title: what was found, in one line.
        sentences: what was found, with the figures.
        tables: the tables it speaks of.
    """

    id: str
    title: str
    sentences: tuple[str, ...]
    tables: tuple[int, ...]

    @property
    def text(self) -> str:
        """The sentences as one paragraph."""
        return " ".join(self.sentences)


def finding(id: str, title: str, sentences: Iterable[str], tables: Iterable[int]) -> list[Finding]:
    """A finding of these sentences, or none where there are no sentences."""
    told = tuple(sentences)
    return [Finding(id, title, told, tuple(sorted(set(tables))))] if told else []


def system(item: PublishedRow | PublishedCell) -> str:
    """The model of a row as a reader writes it, e.g. "PRO-SCALE (1,1,3)"."""
    stages = item.variant
    parts = [TITLES.get(item.model, item.model)]
    if stages:
        parts.append(f"({stages})")
    if item.modifier == "+proscale":
        parts[0] += " with PRO-SCALE"
    elif item.modifier:
        parts.append(item.modifier.replace("+lpe", "+ LPE").replace("+s1", "+ s_1").replace("-s1", "- s_1"))
    return " ".join(parts)


def model(item: PublishedRow | PublishedCell) -> str:
    """The model with its backbone, e.g. "M2F, R50"."""
    return f"{system(item)}, {backbone(item)}" if item.backbone else system(item)


def backbone(item: PublishedRow | PublishedCell) -> str:
    """The backbone as a reader writes it, e.g. "Swin-T"."""
    known = BACKBONES.get(item.backbone)
    return known.title if known else item.backbone


def dataset(item: PublishedRow | PublishedCell) -> str:
    """The data set as a reader writes it."""
    return DATASET_NAMES.get(item.dataset, item.dataset)


def place(item: PublishedRow | PublishedCell) -> str:
    """Where it stands, e.g. "Table 2, row 4"."""
    return f"Table {item.table}, row {item.row}"


def listed(parts: Sequence[str]) -> str:
    """Parts joined as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def once(parts: Iterable[str]) -> list[str]:
    """Each part once, in order."""
    return list(dict.fromkeys(parts))

"""The words of an error line; needs nothing."""

from collections.abc import Iterable
from difflib import get_close_matches

# More choices than these do not fit into a line.
LISTED = 12


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error line: the nearest valid choice, or the first few.

    >>> nearest("pro-scal", ["m2f", "pro-scale"])
    "; did you mean 'pro-scale'?"
    >>> nearest("x", ["m2f", "pro-scale"])
    '; choose from m2f, pro-scale'
    """
    known = list(choices)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if not close and len(word) > 2:
        close = [choice for choice in known if word.lower() in choice.lower()][:1]
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"; choose from {', '.join(known[:LISTED])}{more}" if known else ""


def unknown_backbone(name: str, short: Iterable[str], timm_names: Iterable[str]) -> str:
    """The error line for a backbone that is neither one of ours (``short``) nor a timm model.

    >>> unknown_backbone("r5O", ["r50", "swin-t"], ["resnet18"])
    "unknown backbone 'r5O'; did you mean 'r50'?"
    """
    short = list(short)
    untagged = name.lower().partition(".")[0]
    close = get_close_matches(untagged, [*short, *timm_names], n=3)
    if close:
        return f"unknown backbone {name!r}; did you mean {' or '.join(map(repr, close))}?"
    return f"unknown backbone {name!r}; choose from {', '.join(short)}, or a timm model name"


def listed(parts: Iterable[str]) -> str:
    """Parts joined as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    parts = list(parts)
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"

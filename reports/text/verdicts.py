"""What an audit found in all, in a sentence, and how often chance would have found as much."""

from collections.abc import Mapping
from typing import Any

from segmeter.reports.units import percent


def verdict_line(counts: Mapping[str, Any]) -> str:
    """How many figures of the papers' own models are met, and how."""
    return (
        f"of {counts['family_cells']} cells {counts['family_reproduced']} are reproduced at the stated size "
        f"and {counts['family_consistent']} consistent with a size or mean that was solved for; each figure "
        f"once: {counts['family_distinct_reproduced']} and {counts['family_distinct_consistent']} of "
        f"{counts['family_distinct']}"
    )


def chance_line(chance: Mapping[str, Any]) -> str:
    """How many wrong figures the same rules would have let pass."""
    low, high = chance["moved_by_percent"]
    shares = [
        f"{percent(100 * rule['consistent'] / rule['draws'])} under the rule '{name}'"
        for name, rule in chance["rules"].items()
        if rule["consistent"]
    ]
    return (
        f"of {chance['draws']} figures moved by {low:g} to {high:g} % at random, {chance['reproduced']} "
        f"would still be called reproduced and {chance['consistent']} consistent"
        + (f" ({', '.join(shares)})" if shares else "")
    )

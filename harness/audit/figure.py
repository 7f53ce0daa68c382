"""A figure as it is printed, and what it may be of; loads no model."""

import re

WHATS = ("encoder", "total")


def read_figure(text: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """A printed figure and, for each way of rounding, the range that would be printed so.

    Raises:
        ValueError: not a positive number.

    >>> read_figure("117.0")[1]["rounded to whole ones"]
    (116.5, 117.5)
    """
    match = re.fullmatch(r"\s*(\d{1,9})(?:\.(\d{1,6}))?\s*[gG]?\s*", text)
    value = float(text.strip().rstrip("gG")) if match else 0.0
    if not match or not value:
        raise ValueError(f"the published figure must be a positive number such as 117.0, got {text!r}")
    digits = match[2] or ""
    unit = 10.0 ** -len(digits)
    ranges = {"rounded": (value - unit / 2, value + unit / 2)}
    significant = len(digits.rstrip("0"))
    if significant < len(digits) and (significant or value >= 100):
        # 234.50 may be 234.5; 117.00 is 117 where the tool prints whole ones, which is from 100 on.
        wider = 10.0**-significant
        name = "zeros appended" if significant else "rounded to whole ones"
        ranges[name] = (value - wider / 2, value + wider / 2)
    ranges["cut off"] = (value, value + unit)
    return value, ranges

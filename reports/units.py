"""The only place where a number becomes text."""

PART_TITLES = {
    "backbone": "backbone",
    "encoder": "encoder",
    "decoder": "decoder",
    "postprocess": "post-processing",
}
TITLES = {
    "ffn": "FFN",
    "lpe": "LPE",
    "conv3x3": "3x3 convolution",
    "postprocess": "post-processing",
    "fpn_upsampling": "FPN upsampling",
}


def giga(value: float) -> str:
    """GMACs or GFLOPs to two decimals, as the papers print them; more where two would show nothing.

    >>> giga(135.348), giga(0.0042), giga(0)
    ('135.35', '0.0042', '0')
    """
    if not value:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.2f}"


def percent(value: float, signed: bool = False) -> str:
    """A percentage to two decimals.

    >>> percent(-51.956, signed=True), percent(-0.001, signed=True)
    ('-51.96 %', '0.00 %')
    """
    text = f"{value:+.2f} %" if signed else f"{value:.2f} %"
    return text if any(digit in text for digit in "123456789") else "0.00 %"


def printed(text: str) -> str:
    """A figure as a paper prints it, without the zeros that fill a column.

    >>> printed("055.14"), printed("0.5"), printed("281.00")
    ('55.14', '0.5', '281.00')
    """
    bare = text.lstrip("0")
    return bare if bare[:1].isdigit() else f"0{bare}" if bare[:1] == "." else text


def covered(share: float | None) -> str:
    """The counted share of all work as a percentage, or why there is none.

    >>> covered(0.9804), covered(None)
    ('98.04 %', 'unknown')
    """
    return "unknown" if share is None else percent(100 * share)


def millions(value: int) -> str:
    """Parameters in millions to two decimals; the whole number where two would show nothing.

    >>> millions(47_411_000), millions(1_234)
    ('47.41 M', '1,234')
    """
    return f"{value / 1e6:.2f} M" if value >= 10_000 else f"{value:,}"


def amount(value: int, unit: str) -> str:
    """A whole number of MACs, FLOPs, parameters or bytes with a fitting prefix.

    >>> amount(77_309_411_328, "MACs"), amount(1_024, "parameters"), amount(3 * 10**9, "bytes")
    ('77.31 GMACs', '1,024', '3.00 GB')
    """
    if unit == "parameters":
        return f"{value:,}"
    suffix = "B" if unit == "bytes" else unit
    for prefix, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}{suffix}"
    return f"{value} {suffix}"


def title(component: str) -> str:
    """A component's last name as a reader would write it.

    >>> title("encoder.deformable_attention")
    'deformable attention'
    >>> title("aten::linalg_qr")  # an operator: as it can be pasted into allow_uncounted
    'aten::linalg_qr'
    """
    if "::" in component:
        return component
    name = component.rsplit(".", 1)[-1]
    return TITLES.get(name, name.replace("_", " "))


def change(figure: float, reference: float) -> str:
    """Change against a reference, in percent."""
    return percent(100 * (figure / reference - 1), signed=True) if reference else "-"

"""Windows on maps whose sides they need not divide."""


def whole_parts(side: int, part: int) -> int:
    """How many parts cover a side.

    A side padded to that many is what a tracer of any size can divide again; of one padded by
    ``-side % part`` it would have to prove for many minutes that it can.

    >>> whole_parts(15, 7)
    3
    """
    return (side + part - 1) // part

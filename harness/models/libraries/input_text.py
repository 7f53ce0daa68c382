"""How an input of a library's model is written: ``NAME=SHAPE[:DTYPE]``. Read before torch is loaded."""

import re

from segmeter.model_text import INPUT
from segmeter.words import nearest

# As torch names them.
DTYPE_NAMES = ("float32", "float64", "int64", "int32", "bool")
# Elements; a larger one is a mistake, or would have to be made in earnest for nothing.
MOST_ELEMENTS = 2**28


def read_input(name: str, text: str) -> tuple[tuple[int, ...], str]:
    """Shape and dtype ("" where none is given) of ``1x77`` or ``1x77,int64`` or ``1x77:int64``.

    >>> read_input("task_inputs", "1x77:int64")
    ((1, 77), 'int64')
    """
    sides, _, dtype = re.sub(r"[,:]", " ", text.strip()).partition(" ")
    dtype = dtype.strip()
    if not re.fullmatch(r"\d{1,9}(x\d{1,9}){0,7}", sides):
        raise ValueError(f"input {name} must be SHAPE[:DTYPE], such as 1x77:int64; got {text!r}")
    shape = tuple(int(side) for side in sides.split("x"))
    elements = 1
    for side in shape:
        elements *= side
    if not 0 < elements <= MOST_ELEMENTS:
        raise ValueError(f"input {name} must have from 1 to {MOST_ELEMENTS:,} elements, got {text!r}")
    if dtype and dtype not in DTYPE_NAMES:
        raise ValueError(f"unknown dtype {dtype!r} of input {name}{nearest(dtype, DTYPE_NAMES)}")
    return shape, dtype


def written_input(text: str) -> tuple[str, str]:
    """The option that ``NAME=SHAPE[:DTYPE]`` of the command line stands for.

    >>> written_input("task_inputs=1x77:int64")
    ('input.task_inputs', '1x77,int64')

    Raises:
        ValueError: not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
        raise ValueError(f"--input must be NAME=SHAPE[:DTYPE], such as task_inputs=1x77:int64; got {text!r}")
    shape, dtype = read_input(name.strip(), value)
    return f"{INPUT}{name.strip()}", ",".join(filter(None, ["x".join(map(str, shape)), dtype]))

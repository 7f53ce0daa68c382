"""Options that go together as one parameter of a command: a frozen dataclass whose fields are the flags.

>>> from dataclasses import dataclass
>>> import inspect
>>> @dataclass(frozen=True)
... class Size:
...     height: int = 1
...     width: int = 2
>>> @grouped
... def area(name: str, size: Size = Size()) -> None:
...     print(name, size.height * size.width)
>>> list(inspect.signature(area).parameters)
['name', 'height', 'width']
>>> area(name="a", height=3, width=4)
a 12
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each field of its parameters that are dataclasses, in their place."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(_keyword(name, hints[name], parameter.default))
            continue
        groups[name] = kind
        own = get_type_hints(kind, include_extras=True)
        parameters += [_keyword(each.name, own[each.name], each.default) for each in fields(kind)]

    @wraps(command)
    def called(**given: Any) -> None:
        whole = {
            name: kind(**{each.name: given.pop(each.name) for each in fields(kind)})
            for name, kind in groups.items()
        }
        command(**given, **whole)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)

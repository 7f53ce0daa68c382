"""What a model of an installed library is, whichever library it is of."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from segmeter.harness.models.libraries.families import fitted
from segmeter.harness.models.libraries.folding import folded, products
from segmeter.harness.models.libraries.inputs import Inputs, given_inputs
from segmeter.harness.models.libraries.settling import settle
from segmeter.harness.models.structure import meta_copy
from segmeter.model_text import INPUT

Settings = Mapping[str, Any]
# The largest that any of the libraries offers has a few thousand; more than this would not end.
MOST_MODULES = 30_000


@dataclass(frozen=True)
class LibraryModel:
    """A model named as ``LIBRARY:NAME``. Two are equal if all but the functions is.

    Attributes:
        source: as it is written.
        title: what a table calls it.
        library: the library and its version.
        family: the architecture's name in the library, which the tables of components go by.
        version: what the name stood for when it was read, such as a configuration's text.
        known: names of the options that it takes; None where the library alone can tell.
        build: options without their inputs -> the module, with random weights on the current device.
        inputs: options without their inputs -> what the module is called with.
        patterns: its family's table of components; {} for none.
        reads: gives the names of the outputs that predictions are made of; none where all may be.
    """

    source: str
    title: str
    library: str
    family: str
    version: Hashable
    build: Callable[[Settings], nn.Module] = field(compare=False)
    inputs: Callable[[Settings], Inputs] = field(compare=False)
    patterns: Mapping[str, str] = field(default_factory=dict, compare=False)
    reads: Callable[[], frozenset[str]] = field(default=frozenset, compare=False)

    def inputs_of(self, options: Settings) -> Inputs:
        """What the module is called with, by these options and the inputs among them.

        Raises:
            ValueError: an input that the model does not have, or that cannot be read.
        """
        settings, given = split_inputs(options)
        return given_inputs(self.source, self.inputs(settings), given)

    def built(self, options: Settings) -> nn.Module:
        """The module with random weights; called with images alone, it makes its other inputs itself."""
        settings, _ = split_inputs(options)
        with _at_most(MOST_MODULES, self.source):
            module = settle(self.build(settings))
        inputs = self.inputs_of(options)
        if not inputs.is_plain:
            module.register_forward_pre_hook(inputs.feed, with_kwargs=True)
        return module

    def described(self, module: nn.Module, options: Settings) -> Mapping[str, str]:
        """Patterns of the module's components, the same ones on every device."""
        table = fitted(self.patterns, module)
        if table:
            return table
        work = self._work(module, options)
        return folded(module, {id(part): work.get(path, 0) for path, part in module.named_modules()})

    def _work(self, module: nn.Module, options: Settings) -> Mapping[str, float]:
        """Module path -> work, worked out once on meta, whichever device the module is on."""
        key = (self, repr(sorted(options.items())))
        if key not in _work_of:
            on_meta = all(parameter.is_meta for parameter in module.parameters())
            runs = module if on_meta else meta_copy(module)
            _work_of[key] = products(runs.eval(), self.inputs_of(options).size)
        return _work_of[key]


_work_of: dict[Hashable, Mapping[str, float]] = {}


@contextmanager
def _at_most(most: int, source: str) -> Iterator[None]:
    """Within, raise ValueError when more modules than this have been made."""
    made = 0

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise ValueError(f"{source} is a model of more than {most:,} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def split_inputs(options: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of the model itself, and the inputs given among them.

    >>> split_inputs({"num_queries": 3, "input.input_ids": ("1x8", "int64")})
    ({'num_queries': 3}, {'input_ids': '1x8,int64'})
    """
    given = {name.removeprefix(INPUT): value for name, value in options.items() if name.startswith(INPUT)}
    written = {name: ",".join(v) if isinstance(v, tuple) else str(v) for name, v in given.items()}
    return {name: value for name, value in options.items() if not name.startswith(INPUT)}, written

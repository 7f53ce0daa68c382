"""The layers of a model that tell their tokens, watched while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segmeter.encoders.interface import LayerTokens


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Attributes:
        path: of the layer in the module that is watched.
        number: the layer's place among those that tell their tokens, from 1.
        tokens: what it read.
        output: (B, Q, C) the tokens that it updated.
    """

    path: str
    number: int
    tokens: LayerTokens
    output: Tensor


def find_token_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer, of each :class:`encoders.interface.TokenLayer` inside, in the order of the modules."""
    return {path: each for path, each in module.named_modules() if hasattr(each, "layer_tokens")}


@contextmanager
def watch_token_layers(module: nn.Module, see: Callable[[LayerCall], None]) -> Iterator[None]:
    """While inside, call ``see`` after each call of a layer that tells its tokens."""

    def hook(path: str, number: int) -> Callable[..., None]:
        def after(layer: Any, inputs: tuple[Any, ...], settings: dict[str, Any], output: Tensor) -> None:
            see(LayerCall(path, number, layer.layer_tokens(*inputs, **settings), output))

        return after

    handles = [
        layer.register_forward_hook(hook(path, number), with_kwargs=True)
        for number, (path, layer) in enumerate(find_token_layers(module).items(), start=1)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""What one step of training costs: forward, backward, optimiser, and what is kept between them.

Counted are the products (convolutions, linear layers, matrix products, attention) and the deformable op, as
torch's ``FlopCounterMode`` counts them: norms, resizing and elementwise work are left out. The loss is the
sum of everything that the model returns; the losses of papers, matching among them, are not counted. Autograd
itself runs the backward pass, on meta, so that what is detached or frozen costs what it costs.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segmeter.cuda_ops import formulas
from segmeter.harness.counting.op_costs import costs_of
from segmeter.harness.models import DispatchMode, small_values, tensors_in

PRODUCTS = frozenset(
    (
        "conv",
        "linear",
        "matmul",
        "attention_scores",
        "attention_values",
        "deform_sampling",
        "deform_weighting",
    )
)
# Optimiser -> multiply-accumulates, and bytes of state, for each trained parameter in float32. AdamW: decay,
# first moment, second moment's scale and square, division by its root, step. SGD: decay, momentum, step.
OPTIMISERS = {"adamw": (6, 8), "sgd": (3, 4)}


@dataclass(frozen=True)
class Training:
    """One step of training by module path; figures are MACs and bytes.

    Attributes:
        forward, backward: MACs; a path's own without its children's.
        kept: bytes of activations kept for the backward pass, by the module that made them need keeping.
        trained: parameters with gradients.
        blocks: paths of the repeated blocks, which checkpointing would run again.
        block_inputs: bytes that checkpointing keeps instead.
    """

    forward: Counter[str]
    backward: Counter[str]
    kept: Counter[str]
    trained: Counter[str]
    blocks: tuple[str, ...]
    block_inputs: int

    def optimiser_macs(self, name: str = "adamw") -> int:
        """MACs of one update of all trained parameters."""
        return OPTIMISERS[name][0] * self.trained.total()

    @property
    def recomputed(self) -> int:
        """MACs that checkpointing every block adds: their forward pass, once more."""
        return sum(macs for path, macs in self.forward.items() if _inside(path, self.blocks))

    @property
    def kept_with_checkpointing(self) -> int:
        """Bytes at the peak when every block is checkpointed: inputs, the rest, and the largest block."""
        outside = sum(size for path, size in self.kept.items() if not _inside(path, self.blocks))
        largest = max(
            (sum(s for path, s in self.kept.items() if _inside(path, (block,))) for block in self.blocks),
            default=0,
        )
        return outside + self.block_inputs + largest


def _inside(path: str, blocks: Sequence[str]) -> bool:
    return any(path == block or path.startswith(f"{block}.") for block in blocks)


def count_training(
    model: nn.Module,
    call: Callable[[nn.Module], Any],
    frozen: Callable[[str], bool] = lambda path: False,
) -> Training:
    """Run one forward and backward pass on a copy of a model, in training mode, and count it.

    Args:
        model: on meta; it stays as it is.
        call: runs the copy and returns what it gives.
        frozen: whether a parameter of this path gets no gradient.

    Raises:
        ValueError: nothing that the model returns depends on a parameter.
    """
    copied = copy.deepcopy(model).train()
    for path, parameter in copied.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not frozen(path))
    trained: Counter[str] = Counter()
    for path, parameter in copied.named_parameters():
        if parameter.requires_grad:
            trained[path.rpartition(".")[0]] += parameter.numel()
    step = _Step(blocks=_blocks(copied))
    weights = {p.untyped_storage()._cdata for p in (*copied.parameters(), *copied.buffers())}
    with torch.enable_grad(), small_values() as values, ExitStack() as stack:
        stack.enter_context(_paths(copied, step))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(step.keep(weights), lambda kept: kept))
        stack.enter_context(_Labels(step))
        stack.enter_context(_Products(step))
        losses = [t.sum() for t in tensors_in(call(copied)) if t.requires_grad and t.is_floating_point()]
        if not losses:
            raise ValueError("nothing that the model returns depends on a parameter with a gradient")
        loss = torch.stack(losses).sum()
        step.label(loss)
        step.into, values.makes_constants = step.backward, False
        loss.backward()
    return Training(step.forward, step.backward, step.kept, trained, step.blocks, step.block_inputs)


@dataclass
class _Step:
    """What the hooks write into."""

    blocks: tuple[str, ...]
    path: list[str] = field(default_factory=lambda: [""])
    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    block_inputs: int = 0
    # Kept alive: neither a storage nor a node may take the place of another meanwhile.
    storages: dict[int, Any] = field(default_factory=dict)
    nodes: dict[Any, None] = field(default_factory=dict)
    given: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.into = self.forward

    def book(self, macs: int) -> None:
        self.into[self.path[-1]] += macs

    def keep(self, weights: set[int]) -> Callable[[Tensor], Tensor]:
        """A hook for tensors that autograd saves: each storage once, weights not at all."""

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights and storage._cdata not in self.storages:
                self.storages[storage._cdata] = storage
                self.kept[self.path[-1]] += storage.nbytes()
            return tensor

        return pack

    def label(self, output: Any) -> None:
        """Tell each new step of the backward pass which module it belongs to: the one that runs now."""
        waiting: list[Any] = [t.grad_fn for t in tensors_in(output) if t.grad_fn is not None]
        path = self.path[-1]
        while waiting:
            node = waiting.pop()
            if node is None or node in self.nodes:
                continue
            self.nodes[node] = None
            node.register_prehook(lambda gradients, path=path: self._enter(path))
            waiting += [before for before, _ in node.next_functions]

    def _enter(self, path: str) -> None:
        self.path[-1] = path

    def enter_block(self, inputs: Any) -> None:
        for tensor in tensors_in(inputs):
            storage = tensor.untyped_storage()
            if tensor.requires_grad and storage._cdata not in self.given:
                self.given[storage._cdata] = storage
                self.block_inputs += storage.nbytes()


class _Labels(TorchFunctionMode):
    def __init__(self, step: _Step) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor | tuple | list):
            self.step.label(out)
        return out


class _Products(DispatchMode):
    def __init__(self, step: _Step) -> None:
        super().__init__()
        self.step = step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _BACKWARD.get(func._schema.name)
        if formula is not None:
            self.step.book(formula(args))
        elif not func.is_view:
            costs = costs_of(func, args, out) or []
            macs = sum(cost.macs for cost in costs if cost.operator in PRODUCTS)
            if macs:
                self.step.book(macs)
        return out


def _convolution_backward(args: Any) -> int:
    """A product as large as the forward one for the inputs' gradient, and one for the weight's."""
    output, inputs, weight = (tuple(x.shape) for x in args[:3])
    transposed, mask = args[7], args[10]
    macs = prod(inputs if transposed else output) * prod(weight[1:])
    return macs * (bool(mask[0]) + bool(mask[1]))


def _deformable_backward(args: Any) -> int:
    value = next(a for a in args if isinstance(a, Tensor) and a.dim() == 4)
    places = next(a for a in args if isinstance(a, Tensor) and a.dim() == 6)
    return formulas.backward_macs(tuple(value.shape), tuple(places.shape))


def _attention_backward(args: Any) -> int:
    """A fused kernel's five products: the scores again, gradients of scores, values, queries and keys."""
    _, query, key, value = (tuple(x.shape) for x in args[:4])
    return prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


_BACKWARD: dict[str, Callable[[Any], int]] = {
    "aten::convolution_backward": _convolution_backward,
    **dict.fromkeys(
        (
            "aten::_scaled_dot_product_flash_attention_backward",
            "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
            "aten::_scaled_dot_product_efficient_attention_backward",
            "aten::_scaled_dot_product_cudnn_attention_backward",
            "aten::_scaled_dot_product_fused_attention_overrideable_backward",
        ),
        _attention_backward,
    ),
    "segmeter::ms_deform_attn_backward": _deformable_backward,
    "segmeter::ms_deform_attn_fused_backward": _deformable_backward,
}


def _blocks(model: nn.Module) -> tuple[str, ...]:
    """Paths of members of lists, the outermost: what checkpointing is put around."""
    found: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not _inside(path, found):
            found += [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    return tuple(found)


@contextmanager
def _paths(model: nn.Module, step: _Step) -> Iterator[None]:
    """Keep the path of the module that is running at the end of the step's."""
    with ExitStack() as hooks:
        for path, module in model.named_modules():
            is_block = path in step.blocks

            def enter(
                module: nn.Module, args: Any, named: Any, path: str = path, is_block: bool = is_block
            ) -> None:
                step.path.append(path)
                if is_block:
                    step.enter_block((args, named))

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                step.label(output)
                step.path.pop()

            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield

"""Count operators that call functions: flex attention, branches, loops, and whatever else wraps a graph."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from segmeter.harness.counting.ledger import Ledger
from segmeter.harness.counting.op_costs import Cost, attention_products, costs_of

BRANCHES = ("cond", "switch")


class UnknownValuesError(RuntimeError):
    """The work depends on values that tensors on meta do not hold."""


def run_higher_order(
    func: Any, args: Any, kwargs: dict[str, Any], ledger: Ledger, watching: Callable[[], Any]
) -> Any:
    """Run a higher-order operator and book its work.

    Args:
        func: the operator.
        args, kwargs: its arguments, functions among them.
        ledger: what to write into.
        watching: gives a context in which operators are counted.

    Raises:
        UnknownValuesError: the work depends on values, and the tensors are on meta.
    """

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with watching():
                return function(*args, **kwargs)

        return inside

    name = func.name()
    if ledger.here.muted:
        return func(*args, **kwargs)
    if name == "flex_attention":
        with ledger.silent():
            out = func(*args, **kwargs)
        query, key, value = (tuple(t.shape) for t in args[:3])
        ledger.record(flex_costs(query, key, value, args[4]), out)
        return out
    if name in BRANCHES:
        return _branches(name, args, ledger, counted)
    functions = [a for a in args if _is_function(a)]
    if functions:
        return func(*(counted(a) if _is_function(a) else a for a in args), **kwargs)
    out = func(*args, **kwargs)
    # Operators that change how another one runs, as out_dtype does, come with it as an argument.
    inner = next((a for a in args if isinstance(a, torch._ops.OpOverload)), None)
    costs = costs_of(inner, args[args.index(inner) + 1 :], out) if inner is not None else None
    if costs is not None:
        ledger.record(costs, out)
    elif name != "print":
        ledger.record_unknown(f"higher_order::{name}", args)
    return out


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(
        value, torch._ops.OpOverload | torch._ops.OpOverloadPacket | Tensor
    )


def _branches(
    name: str, args: Any, ledger: Ledger, counted: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:
    """Run all branches, each into a page of its own; book the one that is taken, or the dearest."""
    chosen, *rest = args
    branches, operands = (rest[:2], rest[2]) if name == "cond" else (rest[0], rest[1])
    taken = None if isinstance(chosen, Tensor) and chosen.is_meta else int(chosen)
    if taken is not None and name == "cond":
        taken = 0 if taken else 1
    outputs, counts = [], []
    for index, branch in enumerate(branches):
        # A branch may write into its operands; only the one that is taken should.
        given = operands if index == taken else tree_map_only(Tensor, torch.clone, operands)
        with ledger.aside() as count:
            outputs.append(counted(branch)(*given))
        counts.append(count())
    booked = max(range(len(counts)), key=lambda i: counts[i].flops) if taken is None else taken
    ledger.record_branch(tuple(counts), booked)
    return outputs[booked]


def flex_costs(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], block_mask: Any
) -> list[Cost]:
    """Cost of flex attention: the blocks of scores that its mask keeps, each of them whole.

    Args:
        query: (B, H, Q, D). key: (B, H or fewer, K, D). value: (B, H or fewer, K, E).
        block_mask: ``BlockMask.as_tuple()``.

    Raises:
        UnknownValuesError: the mask is on meta and has more than one block.
    """
    batch, heads, queries, channels = query
    scores = _kept_scores(block_mask, queries, key[-2])
    # Masks broadcast over images and heads.
    scores *= prod((batch, heads)) // prod(_mask_tensors(block_mask)[0].shape[:2])
    return attention_products(scores, channels, value[-1])


def _mask_tensors(block_mask: Any) -> list[Any]:
    """kv_num_blocks, kv_indices, and the same of full blocks (None where no mask function was given)."""
    tensors = [each for each in block_mask if isinstance(each, Tensor) or each is None]
    return tensors[:4]


def _kept_scores(block_mask: Any, queries: int, keys: int) -> int:
    """Scores in the blocks that are computed, for all images and heads that the mask tells apart."""
    rows, columns = block_mask[-3:-1]
    partial, partial_at, full, full_at = _mask_tensors(block_mask)
    if rows >= queries and columns >= keys and partial.is_meta:
        return prod(partial.shape[:2]) * queries * keys
    if partial.is_meta:
        raise UnknownValuesError("which blocks flex_attention computes is not known on meta tensors")
    scores = 0
    for number, at in ((partial, partial_at), (full, full_at)):
        if number is None:
            continue
        listed = torch.arange(at.shape[-1]) < number.cpu()[..., None]
        # The last block of a row or column may be cut off by the sequence's end.
        widths = (keys - at.cpu().long() * columns).clamp(0, columns) * listed
        heights = (queries - torch.arange(at.shape[-2]) * rows).clamp(0, rows)
        scores += int((widths.sum(-1) * heights).sum())
    return scores

"""Components of a model that no table describes: its module tree, folded by where the work is."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from segmeter.harness.inputs import Size
from segmeter.harness.models.constants import small_values
from segmeter.harness.models.values import tensors_in

# A part is taken apart while it holds more than this share of the work, and no deeper than this.
SHARE, DEPTH = 0.6, 6
# A long list whose members have no parts to be told apart by is cut into so many runs beyond this share.
RUNS, TOO_LARGE = 4, 0.85
# Lists of so few members are told apart by their numbers: stages are, blocks are not.
FEW = 6

Weights = Mapping[int, float]


def products(model: nn.Module, size: Size) -> dict[str, float]:
    """Multiply-accumulates of the layers with weights, by path, from one run on meta; {} if it fails.

    An estimate that decides how a tree is folded and nothing else: attention's own products are not in it.
    """
    found: dict[str, float] = {}
    paths = {id(part): path for path, part in model.named_modules()}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        first = next(tensors_in(output), None)
        weight = getattr(module, "weight", None)
        if first is None or not isinstance(weight, Tensor) or weight.dim() < 2:
            return
        places = prod(first.shape[:-1]) if weight.dim() == 2 else first.shape[0] * prod(first.shape[2:])
        path = paths[id(module)]
        found[path] = found.get(path, 0) + float(weight.numel() * places)

    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    handles = [each.register_forward_hook(note) for each in leaves if any(True for _ in each.parameters())]
    try:
        with torch.no_grad(), small_values():
            model(torch.empty((1, 3, *size), device="meta"))
    except Exception:
        # Whatever a model raises that cannot be run so is told when it is counted.
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return found


def folded(module: nn.Module, work: Weights | None = None) -> dict[str, str]:
    """Patterns for a module tree: its parts, the largest taken apart.

    Members of a long list count as one part, and so do their parts of one name: ``layers.*.mlp``. A list
    that would be one row of nearly all is cut into runs of members instead.

    Args:
        module: its root.
        work: of modules by ``id``; without, parameters stand for it.

    >>> layers = nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(8, 8)}) for _ in range(9))
    >>> tree = nn.ModuleDict({"stem": nn.Linear(8, 8), "head": nn.Linear(8, 8), "layers": layers})
    >>> folded(tree)["layers.*.mlp"], folded(nn.ModuleDict({"layers": layers}))["layers.8"]
    ('layers_mlp', 'layers_6_to_8')
    """
    weights = work if work and any(work.values()) else _parameters(module)
    total = _sum([module], weights) or 1
    found = {name: [child] for name, child in module.named_children()}
    for _ in range(DEPTH):
        large = [path for path, parts in found.items() if _sum(parts, weights) > SHARE * total]
        parts = {path: _children(found[path]) for path in large}
        if not any(len(inside) for inside in parts.values()):
            break
        found = {
            name: members
            for path, own in found.items()
            for name, members in (
                {path: own, **{f"{path}.{child}": each for child, each in parts[path].items()}}
                if parts.get(path)
                else {path: own}
            ).items()
        }
    patterns = {path: "_".join(part for part in path.split(".") if part != "*") for path in found}
    parents = {path.rpartition(".")[0] for path in found}
    largest = max(found, key=lambda path: -1 if path in parents else _sum(found[path], weights), default="")
    if "*" in largest.split(".") and _sum(found[largest], weights) > TOO_LARGE * total:
        patterns = _cut(module, largest, patterns)
    return patterns


def _cut(module: nn.Module, path: str, patterns: dict[str, str]) -> dict[str, str]:
    """The patterns with those below the first long list of a path replaced by runs of its members."""
    names = path.split(".")
    at = ".".join(names[: names.index("*")])
    members = [name for name, _ in module.get_submodule(at).named_children()]
    kept = {
        each: name for each, name in patterns.items() if not f"{each}.".startswith(f"{at}.*.".lstrip("."))
    }
    for run in range(RUNS):
        first, last = run * len(members) // RUNS, (run + 1) * len(members) // RUNS - 1
        title = f"{at.replace('.', '_')}_{members[first]}_to_{members[last]}".lstrip("_")
        kept |= {f"{at}.{name}".lstrip("."): title for name in members[first : last + 1]}
    return kept


def _parameters(module: nn.Module) -> Weights:
    return {id(m): sum(p.numel() for p in m._parameters.values() if p is not None) for m in module.modules()}


def _sum(modules: list[nn.Module], weights: Weights) -> float:
    return sum({id(m): weights.get(id(m), 0) for each in modules for m in each.modules()}.values())


def _children(modules: list[nn.Module]) -> dict[str, list[nn.Module]]:
    """Children of modules of one kind by name; those with numbers for names together."""
    found: dict[str, list[nn.Module]] = {}
    for module in modules:
        children = dict(module.named_children())
        many = sum(name.isdigit() for name in children) > FEW
        for name, child in children.items():
            found.setdefault("*" if many and name.isdigit() else name, []).append(child)
    return found

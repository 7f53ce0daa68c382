"""Inputs of the op for the tests, drawn from a seed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Inputs:
    """One call's tensors in float64, for the plain and the fused op alike."""

    value: torch.Tensor
    shapes: torch.Tensor
    starts: torch.Tensor
    points: torch.Tensor
    offsets: torch.Tensor
    logits: torch.Tensor

    @property
    def locations(self) -> torch.Tensor:
        return self.points[:, :, None, :, None] + self.offsets / self.shapes.flip(-1)[:, None]

    @property
    def weights(self) -> torch.Tensor:
        return self.logits.flatten(3).softmax(-1).view(self.logits.shape)

    def plain(self) -> tuple[torch.Tensor, ...]:
        return self.value, self.shapes, self.starts, self.locations, self.weights

    def fused(self) -> tuple[torch.Tensor, ...]:
        return self.value, self.shapes, self.starts, self.points, self.offsets, self.logits


def starts_of(shapes: torch.Tensor) -> torch.Tensor:
    return torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])


def draw(
    sizes: list[tuple[int, int]],
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    dim: int = 8,
    points: int = 3,
    seed: int = 0,
    own_points: tuple[bool, bool] = (True, True),
) -> Inputs:
    """Offsets of a few pixels, reference points on and off the maps; ``own_points``: per item, per level."""
    generator = torch.Generator().manual_seed(seed)
    kind = {"dtype": torch.float64, "generator": generator}
    shapes = torch.tensor(sizes)
    levels = len(sizes)
    each = (batch if own_points[0] else 1, queries, levels if own_points[1] else 1, 2)
    return Inputs(
        value=torch.randn(batch, int(shapes.prod(1).sum()), heads, dim, **kind),
        shapes=shapes,
        starts=starts_of(shapes),
        points=torch.rand(each, **kind) * 1.2 - 0.1,
        offsets=torch.randn(batch, queries, heads, levels, points, 2, **kind) * 2,
        logits=torch.randn(batch, queries, heads, levels, points, **kind),
    )


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    scale = expected.double().norm().clamp(min=1e-12)
    return ((given.double() - expected.double()).norm() / scale).item()


def as_leaves(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Fresh copies of which the floating-point ones ask for gradients."""
    return tuple(t.detach().clone().requires_grad_() if t.is_floating_point() else t for t in tensors)

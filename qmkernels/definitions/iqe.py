"""IQE, the interval quasimetric embedding, in plain PyTorch: the definition every backend is held against.

Wang & Isola 2022, "Improved Representation of Asymmetrical Distances with Interval Quasimetric Embeddings"
(arXiv 2211.15120). Notation: ``x`` from, ``y`` to, both ``(..., D)``; D = C * K, C components of K values.
The component is the length of the union over k of the open intervals (x_k, y_k); an interval with x_k >= y_k is
empty. Infinite coordinates count as the largest finite number of the dtype; NaN gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean", "spread")


def _sorted_by_x(x: Tensor, y: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor, Tensor]:
    """The components' intervals in the order of their left coordinates, and that order: each (..., C, K)."""
    highest = torch.finfo(x.dtype).max
    x = x.clamp(-highest, highest).unflatten(-1, (-1, dim_per_component))
    y = y.clamp(-highest, highest).unflatten(-1, (-1, dim_per_component))
    x, order = x.sort(dim=-1, stable=True)
    order, y = torch.broadcast_tensors(order, y)
    return x.expand(y.shape), y.gather(-1, order), order


def _furthest_before(y: Tensor) -> Tensor:
    """The largest y among the earlier intervals of the component; for the first one the lowest finite number."""
    lowest = torch.full_like(y[..., :1], torch.finfo(y.dtype).min)
    return torch.cat([lowest, y.cummax(dim=-1).values[..., :-1]], dim=-1)


def components(x: Tensor, y: Tensor, dim_per_component: int) -> Tensor:
    """Lengths of the unions, (..., C); leading dimensions broadcast; differentiable by autograd.

    In the order of x each interval adds what reaches beyond everything before it:
    ``begin_k = max(x_k, y_1, ..., y_(k-1))``, ``length = sum_k relu(y_k - begin_k)``.
    """
    x, y, _ = _sorted_by_x(x, y, dim_per_component)
    furthest = _furthest_before(y)
    begin = torch.where(furthest > x, furthest, x)
    return functional.relu(y - begin).sum(dim=-1)


def ends(x: Tensor, y: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor]:
    """Which coordinates end a connected piece of the union: two bool tensors (..., C, K), for x and for y.

    The gradient of ``components`` is minus the first for x and plus the second for y. A piece has one left and one
    right end also where several coordinates tie; intervals that only touch are separate pieces. A component with a NaN
    is marked by ends that no union has: every x is a left end and no y a right end; `slopes` makes them NaN.
    """
    has_nan = (x.isnan() | y.isnan()).unflatten(-1, (-1, dim_per_component)).any(dim=-1, keepdim=True)
    x, y, order = _sorted_by_x(x, y, dim_per_component)
    furthest = _furthest_before(y)
    extends = y > torch.maximum(furthest, x)
    starts = extends & (x >= furthest)
    # A piece's right end is its last interval that extends it: the next one that extends anything starts a new piece.
    size = dim_per_component
    index = torch.arange(size, device=x.device).expand(y.shape)
    here_or_later = torch.where(extends, index, size).flip(-1).cummin(dim=-1).values.flip(-1)
    later = functional.pad(here_or_later[..., 1:], (0, 1), value=size)
    finishes = extends & functional.pad(starts, (0, 1), value=True).gather(-1, later)
    left = torch.zeros_like(starts).scatter(-1, order, starts)
    right = torch.zeros_like(finishes).scatter(-1, order, finishes)
    return left | has_nan, right & ~has_nan


def slopes(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """`ends` to minus the derivative of the length by x and that by y, float32: 1 at ends, else 0; in a component with
    a NaN, NaN."""
    has_nan = left.all(dim=-1, keepdim=True) & ~right.any(dim=-1, keepdim=True)
    return tuple(torch.where(has_nan, torch.nan, ends.float()) for ends in (left, right))


def reduce(lengths: Tensor, reduction: str, max_weight: Tensor | float | None = None) -> Tensor:
    """Components (..., C) to distances (...). ``spread`` is max - mean, the derivative of maxmean by its weight."""
    if reduction == "none":
        return lengths
    if reduction == "sum":
        return lengths.sum(dim=-1)
    if reduction == "mean":
        return lengths.mean(dim=-1)
    largest = lengths.max(dim=-1).values
    if reduction == "max":
        return largest
    spread = largest - lengths.mean(dim=-1)
    return spread if reduction == "spread" else lengths.mean(dim=-1) + max_weight * spread


def iqe(
    x: Tensor, y: Tensor, dim_per_component: int = 16, *, reduction: str = "maxmean", max_weight: Tensor | float = 0.5
) -> Tensor:
    """The distance, (...) or for reduction "none" (..., C), by autograd-differentiable plain PyTorch."""
    return reduce(components(x, y, dim_per_component), reduction, max_weight)

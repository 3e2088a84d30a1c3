"""IQE, the interval quasimetric embedding, in plain PyTorch: the definition of the op ``iqe``.

Wang & Isola 2022, "Improved Representation of Asymmetrical Distances with Interval Quasimetric Embeddings"
(arXiv 2211.15120). Notation: ``x`` from, ``y`` to, both ``(..., D)``; D = C * K, C components of K values.
A component is the length of the union over k of the open intervals (x_k, y_k); an interval with x_k >= y_k is
empty. Infinite coordinates count as the largest finite number of the dtype; NaN gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .shapes import empty, of_rows


class WeightLink(NamedTuple):
    """A function from ``max_weight`` to the weight of the maximum, and its derivative as a function of the weight."""

    weight: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


WEIGHT_LINKS = {
    "identity": WeightLink(lambda raw: raw, torch.ones_like),
    "sigmoid": WeightLink(torch.sigmoid, lambda weight: weight * (1 - weight)),
    "one_minus_sigmoid": WeightLink(lambda raw: torch.sigmoid(-raw), lambda weight: weight * (weight - 1)),
}


def keeps_largest(reduction: str) -> bool:
    """Returns whether forward keeps the index of the largest component for backward."""
    return reduction in ("max", "maxmean", "spread")


def _sorted_by_x(x: Tensor, y: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the components' intervals in the order of their left coordinates, and that order: each (..., C, K)."""
    highest = torch.finfo(x.dtype).max
    x = x.clamp(-highest, highest).unflatten(-1, (-1, dim_per_component))
    y = y.clamp(-highest, highest).unflatten(-1, (-1, dim_per_component))
    x, order = x.sort(dim=-1, stable=True)
    order, y = torch.broadcast_tensors(order, y)
    return x.expand(y.shape), y.gather(-1, order), order


def _furthest_before(y: Tensor) -> Tensor:
    """Returns the largest y of the component's earlier intervals; for the first one, the lowest finite number."""
    lowest = torch.full_like(y[..., :1], torch.finfo(y.dtype).min)
    return torch.cat([lowest, y.cummax(dim=-1).values[..., :-1]], dim=-1)


def components(x: Tensor, y: Tensor, dim_per_component: int) -> Tensor:
    """Computes the lengths of the unions, (..., C); leading dimensions broadcast; differentiable by autograd.

    In the order of x each interval adds the part that reaches beyond all intervals before it:
    ``begin_k = max(x_k, y_1, ..., y_(k-1))``, ``length = sum_k relu(y_k - begin_k)``.
    """
    x, y, _ = _sorted_by_x(x, y, dim_per_component)
    furthest = _furthest_before(y)
    begin = torch.where(furthest > x, furthest, x)
    return functional.relu(y - begin).sum(dim=-1)


def ends(x: Tensor, y: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor]:
    """Finds the coordinates that end a connected piece of the union: two bool tensors (..., C, K), for x and for y.

    The gradient of ``components`` is minus the first by x and the second by y. A piece has one left and one right end,
    even if several coordinates tie; intervals that only touch are separate pieces. A component with a NaN is marked by
    ends that no union has: every x is a left end and no y a right end; `slopes` turns them into NaN.
    """
    has_nan = (x.isnan() | y.isnan()).unflatten(-1, (-1, dim_per_component)).any(dim=-1, keepdim=True)
    x, y, order = _sorted_by_x(x, y, dim_per_component)
    furthest = _furthest_before(y)
    extends = y > torch.maximum(furthest, x)
    starts = extends & (x >= furthest)
    # A piece's right end is its last interval that extends it: the next extending interval starts a new piece.
    size = dim_per_component
    index = torch.arange(size, device=x.device).expand(y.shape)
    here_or_later = torch.where(extends, index, size).flip(-1).cummin(dim=-1).values.flip(-1)
    later = functional.pad(here_or_later[..., 1:], (0, 1), value=size)
    finishes = extends & functional.pad(starts, (0, 1), value=True).gather(-1, later)
    left = torch.zeros_like(starts).scatter(-1, order, starts)
    right = torch.zeros_like(finishes).scatter(-1, order, finishes)
    return left | has_nan, right & ~has_nan


def slopes(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Returns, for `ends`, minus the derivative of the length by x, and that by y, in float32: 1 at ends, else 0; NaN
    in a component with a NaN."""
    has_nan = left.all(dim=-1, keepdim=True) & ~right.any(dim=-1, keepdim=True)
    return tuple(torch.where(has_nan, torch.nan, ends.float()) for ends in (left, right))


def weights_of_rows(max_weight: Tensor | None, weight_link: str, rows: Sequence[int]) -> Tensor | None:
    """Returns the weight of the maximum, to broadcast against ``rows``. ``max_weight`` is one number, 0-d, or (G,), one
    for each of G equal runs of neighbouring rows."""
    return None if max_weight is None else of_rows(WEIGHT_LINKS[weight_link].weight(max_weight), rows)


def reduce(lengths: Tensor, reduction: str, weights: Tensor | float | None = None) -> Tensor:
    """Reduces components (..., C) to distances (...); for maxmean, ``weights`` of the maximum broadcast against these.
    "spread" is max - mean, the derivative of maxmean by its weight."""
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
    return spread if reduction == "spread" else lengths.mean(dim=-1) + weights * spread


def iqe(
    x: Tensor, y: Tensor, dim_per_component: int = 16, *, reduction: str = "maxmean", max_weight: Tensor | float = 0.5
) -> Tensor:
    """Computes the distance, (...) or for reduction "none" (..., C), differentiable by autograd."""
    return reduce(components(x, y, dim_per_component), reduction, max_weight)


# --- Backward: ends, packed as backends keep them, and each component's share in the distance.


def pack_ends(left: Tensor, right: Tensor) -> Tensor:
    """Packs two bool tensors (..., C, K) into bytes (..., C, ceil(2K / 8))."""
    bits = torch.cat([left, right], dim=-1).to(torch.uint8)
    bits = functional.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits << places).sum(dim=-1, dtype=torch.uint8)


def unpack_ends(ends: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor]:
    """Inverts `pack_ends` and returns `slopes`: two float32 tensors (..., C, K) of zeros, ones and NaN."""
    places = torch.arange(8, dtype=torch.uint8, device=ends.device)
    bits = ((ends.unsqueeze(-1) >> places) & 1).flatten(-2).bool()
    return slopes(bits[..., :dim_per_component], bits[..., dim_per_component : 2 * dim_per_component])


def component_weights(
    num_components: int, largest: Tensor, weights: Tensor | None, reduction: str, dtype: torch.dtype
) -> Tensor | float:
    """Returns the derivative of the reduction by each component's length, (..., C), or one number if all are equal."""
    if reduction in ("none", "sum"):
        return 1.0
    if reduction == "mean":
        return 1.0 / num_components
    is_largest = (largest.unsqueeze(-1) == torch.arange(num_components, device=largest.device)).to(dtype)
    if reduction == "max":
        return is_largest
    if reduction == "spread":
        return is_largest - 1.0 / num_components
    weights = weights.unsqueeze(-1)
    return (1.0 - weights) / num_components + weights * is_largest


def gradient(
    grad_out: Tensor, left: Tensor, right: Tensor, largest: Tensor, weights: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """Returns the derivatives of (grad_out * iqe(x, y)).sum() by x and by y, (..., D), given `slopes`, the largest and,
    for maxmean, `weights_of_rows`.

    An upstream gradient that is not finite reaches only the ends, and only those of components with a weight.
    """
    num_components = left.shape[-2]
    if reduction != "none":
        by_length = component_weights(num_components, largest, weights, reduction, grad_out.dtype)
        weighted = grad_out.unsqueeze(-1) * by_length
        if isinstance(by_length, Tensor):
            weighted = weighted.masked_fill(by_length == 0, 0.0)
        grad_out = weighted.expand(*grad_out.shape, num_components)
    grad = grad_out.unsqueeze(-1)
    return tuple(
        torch.where(slopes == 0, 0.0, sign * grad * slopes).flatten(-2) for sign, slopes in ((-1, left), (1, right))
    )


def weight_gradient(grad_out: Tensor, spread: Tensor, max_weight: Tensor, weight_link: str) -> Tensor:
    """Returns the derivative of (grad_out * iqe(x, y)).sum() by ``max_weight``, in its shape."""
    parts = grad_out * spread
    total = parts.sum() if max_weight.dim() == 0 else parts.reshape(max_weight.shape[0], -1).sum(dim=1)
    link = WEIGHT_LINKS[weight_link]
    return total * link.slope(link.weight(max_weight))


# --- The kernels' outputs: empty tensors of the right shapes, None for those that are not needed.


def iqe_forward_outputs(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    *rows, size = x.shape
    num_components = size // dim_per_component
    out = empty(x, *rows, num_components) if reduction == "none" else empty(x, *rows)
    if not keep:
        return out, None, None, None
    ends = x.new_empty(*rows, num_components, (2 * dim_per_component + 7) // 8, dtype=torch.uint8)
    return out, ends, *kept_of_reduction(out, reduction)


def kept_of_reduction(out: Tensor, reduction: str) -> tuple[Tensor | None, Tensor | None]:
    """Returns ``largest`` and ``spread`` for distances shaped like ``out``."""
    if not keeps_largest(reduction):
        return None, None
    return torch.empty_like(out, dtype=torch.int32), torch.empty_like(out) if reduction == "maxmean" else None


def iqe_backward_outputs(
    grad_out: Tensor, ends: Tensor, largest: Tensor | None, spread: Tensor | None, max_weight: Tensor | None,
    dim_per_component: int, reduction: str, weight_link: str, need_weight: bool, like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    *rows, num_components, _ = ends.shape
    grad_x = (grad_out if like is None else like).new_empty(*rows, num_components * dim_per_component)
    return grad_x, torch.empty_like(grad_x), torch.empty_like(max_weight) if need_weight else None


def iqe_pairwise_forward_outputs(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    pairs = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty(*pairs, x.shape[-1] // dim_per_component) if reduction == "none" else x.new_empty(*pairs)
    return out, x.new_empty(*pairs, dtype=torch.int32) if keep and keeps_largest(reduction) else None


def iqe_pairwise_backward_outputs(
    grad_out: Tensor, x: Tensor, y: Tensor, largest: Tensor | None, max_weight: Tensor | None, dim_per_component: int,
    reduction: str, weight_link: str, need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(max_weight) if need_weight else None

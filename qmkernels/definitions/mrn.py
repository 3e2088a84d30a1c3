"""MRN, the metric residual network, in plain PyTorch: the definition of the op ``mrn``.

Liu et al. 2022, "Metric Residual Networks for Sample Efficient Goal-Conditioned Reinforcement Learning"
(arXiv 2208.08133), and its later forms. Notation: ``x`` from, ``y`` to, both ``(..., D)``; D = C * S, C components of S
values, which are split after the first S // 2 into an asymmetric and a symmetric part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.mrn import MrnSettings
from .shapes import empty


class Parts(NamedTuple):
    """The two parts of a distance, of the same shape, which add up to it."""

    symmetric: Tensor
    asymmetric: Tensor


def split(difference: Tensor, asymmetric: str) -> tuple[Tensor, Tensor]:
    """Splits differences (..., S) into their asymmetric and symmetric parts."""
    size = difference.shape[-1]
    if asymmetric == "none":
        return difference[..., :0], difference
    first, second = difference.split([size // 2, size - size // 2], dim=-1)
    return (first, second) if asymmetric == "first" else (second, first)


def components(x: Tensor, y: Tensor, settings: MrnSettings) -> Parts:
    """Computes ``(sum_i (x_i - y_i)^2) ** (p / 2)`` and ``max_j relu(x_j - y_j)`` per component, (..., C), for autograd
    too.

    A symmetric part of 0 has gradient 0, not the NaN of a root's derivative at 0.
    """
    difference = (x - y).unflatten(-1, (settings.num_components, -1))
    one_way, both_ways = split(difference, settings.asymmetric)
    nothing = difference.new_zeros(difference.shape[:-1])
    asymmetric = one_way.relu().amax(dim=-1) if one_way.shape[-1] else nothing
    if not both_ways.shape[-1]:
        return Parts(nothing, asymmetric)
    if settings.eps_form == "difference":
        both_ways = both_ways + settings.eps
    squares = both_ways.square()
    squares = squares.sum(dim=-1) if settings.squares == "sum" else squares.mean(dim=-1)
    if settings.eps_form == "add":
        squares = squares + settings.eps
    elif settings.eps_form == "max":
        squares = squares.clamp(min=settings.eps)
    if settings.exponent == 2:
        return Parts(squares, asymmetric)
    is_zero = squares == 0
    root = torch.where(is_zero, 1.0, squares) ** (settings.exponent / 2)
    return Parts(torch.where(is_zero, 0.0, root), asymmetric)


def parts(x: Tensor, y: Tensor, settings: MrnSettings) -> Parts:
    """Computes both parts of the distance, (...) or for reduction "none" (..., C)."""
    return Parts(*(_reduced(part, settings) for part in components(x, y, settings)))


def mrn(x: Tensor, y: Tensor, settings: MrnSettings) -> Tensor:
    """Computes the distance, (...) or for reduction "none" (..., C); leading dimensions broadcast."""
    symmetric, asymmetric = components(x, y, settings)
    return _reduced(asymmetric + symmetric, settings)


def _reduced(parts: Tensor, settings: MrnSettings) -> Tensor:
    if settings.reduction == "sum":
        parts = parts.sum(dim=-1)
    elif settings.reduction == "mean":
        parts = parts.mean(dim=-1)
    return parts * settings.scale


def gradient(grad_out: Tensor, x: Tensor, y: Tensor, settings: MrnSettings) -> Tensor:
    """Returns the derivative of (grad_out * mrn(x, y)).sum() by x, (..., D); that by y is its negative.

    Of several equal largest differences, the first gets the gradient.
    """
    difference = (x - y).unflatten(-1, (settings.num_components, -1))
    one_way, both_ways = split(difference, settings.asymmetric)
    grad = grad_out * (settings.scale / settings.num_components if settings.reduction == "mean" else settings.scale)
    if settings.reduction != "none":
        grad = grad.unsqueeze(-1)
    grad = grad.unsqueeze(-1)

    asymmetric = one_way
    if one_way.shape[-1]:
        largest, place = one_way.max(dim=-1, keepdim=True)
        is_largest = torch.arange(one_way.shape[-1], device=x.device) == place
        asymmetric = is_largest * torch.where(largest > 0, grad, torch.where(largest.isnan(), largest, 0.0))
    count = max(both_ways.shape[-1], 1) if settings.squares == "mean" else 1
    shifted = both_ways + settings.eps if settings.eps_form == "difference" else both_ways
    squares = shifted.square().sum(dim=-1, keepdim=True) / count
    moves = squares > settings.eps if settings.eps_form == "max" else squares != 0
    if settings.eps_form == "add":
        squares = squares + settings.eps
        moves = squares > 0
    moves = moves | squares.isnan()
    slope = settings.exponent / count * torch.where(moves, squares, 1.0) ** (settings.exponent / 2 - 1)
    symmetric = grad * torch.where(moves, slope, 0.0) * shifted
    order = (symmetric, asymmetric) if settings.asymmetric == "second" else (asymmetric, symmetric)
    return torch.cat(order, dim=-1).flatten(-2)


# --- The kernels' outputs: empty tensors of the right shapes.


def mrn_forward_outputs(x: Tensor, y: Tensor, *settings) -> Tensor:
    return _distances(x, x.shape[:-1], MrnSettings(*settings))


def mrn_pairwise_forward_outputs(x: Tensor, y: Tensor, *settings) -> Tensor:
    return _distances(x, (x.shape[0], x.shape[1], y.shape[1]), MrnSettings(*settings))


def mrn_backward_outputs(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Returns the outputs of both forms."""
    return torch.empty_like(x), torch.empty_like(y)


def _distances(x: Tensor, rows: tuple[int, ...], settings: MrnSettings) -> Tensor:
    if settings.reduction == "none":
        rows = *rows, settings.num_components
    return empty(x, *rows)

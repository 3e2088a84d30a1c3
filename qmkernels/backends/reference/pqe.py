"""PQE-LH on the reference backend, and the definition of what every backend's PQE functions take and return.

All tensors are contiguous, on one device, float32 or float64. K is ``dim_per_component``, C = D / K. With ``weights``
the result is the weighted sum of components, without (None) it is the components. Weights are (C,), for all rows, or
(G, C): the rows are G equal runs of neighbouring rows, and run g has ``weights[g]``; in pairwise functions the batch is
G equal runs of samples. Backward needs nothing of forward but its inputs. ``grad_weights`` is of weights' shape, each
run's a sum over its rows alone; where there are no weights or it is not needed there is None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import pqe as definition


def pqe_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """``out`` (...), or (..., C) without weights, of x, y (..., D)."""
    return definition.pqe(x, y, weights, dim_per_component)


def pqe_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``grad_x`` and ``grad_y`` (..., D), ``grad_weights``."""
    grad_x = definition.gradient(grad_out, x, y, weights, dim_per_component)
    grad_weights = None
    if need_weights:
        grad_weights = definition.gradient_of_weights(grad_out, x, y, weights, dim_per_component)
    return grad_x, -grad_x, grad_weights


def pqe_pairwise_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """``out`` (B, N, M), or (B, N, M, C) without weights, of x (B, N, D) and y (B, M, D); row by row."""
    pairs = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty((*pairs, x.shape[-1] // dim_per_component) if weights is None else pairs)
    for i in range(x.shape[1]):
        out[:, i] = definition.pqe(x[:, i : i + 1], y, weights, dim_per_component)
    return out


def pqe_pairwise_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``grad_x`` (B, N, D), ``grad_y`` (B, M, D), ``grad_weights``; row by row."""
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    grad_weights = torch.zeros_like(weights) if need_weights else None
    for i in range(x.shape[1]):
        row = x[:, i : i + 1]
        grad = definition.gradient(grad_out[:, i], row, y, weights, dim_per_component)
        grad_x[:, i] = grad.sum(dim=1)
        grad_y -= grad
        if need_weights:
            grad_weights += definition.gradient_of_weights(grad_out[:, i], row, y, weights, dim_per_component)
    return grad_x, grad_y, grad_weights

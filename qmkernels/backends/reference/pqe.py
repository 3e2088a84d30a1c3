"""PQE-LH on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64, x and y of matching rows also in half precision, as for
IQE. K is ``dim_per_component``, C = D / K. With ``weights`` the result is the weighted sum of components; without
(None) it is the components. Weights are (C,), for all rows, or (G, C): run g of G equal runs of neighbouring rows, in
pairwise functions of samples, has ``weights[g]``. Backward needs only the inputs. ``grad_weights`` has the weights'
shape, a sum over each run's own rows; it is None without weights or if not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import pqe as definition


def pqe_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """Returns ``out`` (...), or (..., C) without weights, for x, y (..., D)."""
    return definition.pqe(x, y, weights, dim_per_component)


def pqe_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``grad_x``, ``grad_y`` (..., D) and ``grad_weights``."""
    grad_x = definition.gradient(grad_out, x, y, weights, dim_per_component)
    grad_weights = None
    if need_weights:
        grad_weights = definition.gradient_of_weights(grad_out, x, y, weights, dim_per_component)
    return grad_x, -grad_x, grad_weights


def pqe_pairwise_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """Returns ``out`` (B, N, M), or (B, N, M, C) without weights, for x (B, N, D) and y (B, M, D)."""
    pairs = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty((*pairs, x.shape[-1] // dim_per_component) if weights is None else pairs)
    for i in range(x.shape[1]):
        out[:, i] = definition.pqe(x[:, i : i + 1], y, weights, dim_per_component)
    return out


def pqe_pairwise_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``grad_x`` (B, N, D), ``grad_y`` (B, M, D) and ``grad_weights``."""
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

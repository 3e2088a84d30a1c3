"""PQE-LH, the Poisson quasimetric embedding with half-lines, in plain PyTorch: the definition of the op ``pqe``.

Wang & Isola 2022, "On the Learning and Learnability of Quasimetrics" (arXiv 2206.15478), equation 9. Notation: ``x``
from, ``y`` to, both ``(..., D)``; D = C * K, C components of K values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import empty, of_rows


def components(x: Tensor, y: Tensor, dim_per_component: int) -> Tensor:
    """Computes ``1 - exp(mean_j min(y_j - x_j, 0))``, in [0, 1), (..., C); differentiable by autograd.

    It takes the mean, not the paper's sum, as the published code does (section C.4.1).
    """
    exceeds = (y - x).unflatten(-1, (-1, dim_per_component)).clamp(max=0)
    return -torch.expm1(exceeds.mean(dim=-1))


def pqe(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """Computes the weighted sum of components, (...), or without weights the components, (..., C).

    Weights are (C,), for all rows, or (G, C), one set for each of G equal runs of neighbouring rows.
    """
    parts = components(x, y, dim_per_component)
    return parts if weights is None else (parts * of_rows(weights, parts.shape[:-1], 1)).sum(dim=-1)


def gradient(grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    """Returns the derivative of (grad_out * pqe(x, y)).sum() by x, (..., D); that by y is its negative.

    At x_j = y_j it is the one from above, like that of ``clamp``.
    """
    difference = (y - x).unflatten(-1, (-1, dim_per_component))
    slope = difference.clamp(max=0).mean(dim=-1).exp() / dim_per_component
    grad = grad_out if weights is None else grad_out.unsqueeze(-1) * of_rows(weights, grad_out.shape, 1)
    return ((grad * slope).unsqueeze(-1) * ~(difference > 0)).flatten(-2)


def gradient_of_weights(grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor, dim_per_component: int) -> Tensor:
    """Returns the derivative of (grad_out * pqe(x, y)).sum() by the weights, in their shape."""
    parts = grad_out.unsqueeze(-1) * components(x, y, dim_per_component)
    return parts.reshape(*weights.shape[:-1], -1, weights.shape[-1]).sum(dim=-2)


# --- The kernels' inputs and outputs: empty tensors of the right shapes.


def num_weights(weights: Tensor | None) -> int:
    """Returns the number of runs of rows with their own weights: 1 if all rows share them or there are none."""
    return 1 if weights is None or weights.dim() == 1 else weights.shape[0]


def pqe_forward_outputs(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    *rows, size = x.shape
    return empty(x, *rows) if weights is not None else empty(x, *rows, size // dim_per_component)


def pqe_pairwise_forward_outputs(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    pairs = x.shape[0], x.shape[1], y.shape[1]
    return empty(x, *pairs) if weights is not None else empty(x, *pairs, x.shape[-1] // dim_per_component)


def pqe_backward_outputs(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the outputs of both forms."""
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(weights) if need_weights else None

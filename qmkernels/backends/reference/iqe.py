"""IQE on the reference backend, and the definition of what every backend's IQE functions take and return.

All tensors are contiguous, on one device, float32 or float64 (``max_weight`` 0-d, of the same dtype). K is
``dim_per_component``, C = D / K, ``reduction`` one of ``definitions.iqe.REDUCTIONS``. A tensor that is not needed is
returned empty, of shape (0,).

``ends``     uint8 (..., C, ceil(2K / 8)): bit k of a component's bytes says that x_k is a left end of the union, bit
             K + k that y_k is a right end (bit b is bit b % 8 of byte b // 8). All that backward needs of x and y.
``largest``  int32 (...): the first component of the greatest length, for max, maxmean and spread.
``spread``   (...): greatest length - mean length, for maxmean: the derivative by ``max_weight``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import iqe as definition
from ...definitions.iqe import keeps_largest, pack_ends, unpack_ends


def iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``out`` (...) or (..., C) of x, y (..., D), then ``ends``, ``largest``, ``spread``: empty unless ``keep``."""
    lengths = definition.components(x, y, dim_per_component)
    out = definition.reduce(lengths, reduction, max_weight)
    ends, largest, spread = x.new_empty(0, dtype=torch.uint8), x.new_empty(0, dtype=torch.int32), x.new_empty(0)
    if keep:
        ends = pack_ends(*definition.ends(x, y, dim_per_component))
        if keeps_largest(reduction):
            largest = lengths.argmax(dim=-1).to(torch.int32)
        if reduction == "maxmean":
            spread = definition.reduce(lengths, "spread")
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor, ends: Tensor, largest: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """``grad_x`` and ``grad_y`` (..., D) from what forward kept."""
    left, right = unpack_ends(ends, dim_per_component)
    return definition.gradient(grad_out, left, right, largest, max_weight, reduction)


def iqe_pairwise_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """``out`` (B, N, M) or (B, N, M, C) of x (B, N, D) and y (B, M, D), and ``largest`` (B, N, M), row by row."""
    out, largest = definition.iqe_pairwise_forward_outputs(x, y, max_weight, dim_per_component, reduction, keep)
    for i in range(x.shape[1]):
        lengths = definition.components(x[:, i : i + 1], y, dim_per_component)
        out[:, i] = definition.reduce(lengths, reduction, max_weight)
        if keep and keeps_largest(reduction):
            largest[:, i] = lengths.argmax(dim=-1)
    return out, largest


def iqe_pairwise_backward(
    grad_out: Tensor,
    x: Tensor,
    y: Tensor,
    largest: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    need_weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``grad_x`` (B, N, D), ``grad_y`` (B, M, D) and, 0-d where asked for, ``grad_max_weight``; row by row."""
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    grad_max_weight = x.new_zeros(() if need_weight_gradient else 0)
    for i in range(x.shape[1]):
        row = x[:, i : i + 1]
        left, right = definition.ends(row, y, dim_per_component)
        row_largest = largest[:, i] if keeps_largest(reduction) else largest
        of_row, of_pairs = definition.gradient(grad_out[:, i], left, right, row_largest, max_weight, reduction)
        grad_x[:, i] = of_row.sum(dim=1)
        grad_y += of_pairs
        if need_weight_gradient:
            spread = definition.reduce(definition.components(row, y, dim_per_component), "spread")
            grad_max_weight += (grad_out[:, i] * spread).sum()
    return grad_x, grad_y, grad_max_weight

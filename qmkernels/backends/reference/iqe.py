"""IQE on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64; x and y of matching rows also bfloat16 or float16
on a backend that loads these (`dispatch.loads_half`): it computes in float32 and rounds their gradients. K is
``dim_per_component``, C = D / K, ``reduction`` one of ``definitions.iqe.REDUCTIONS``. A tensor that is not needed is
None.

``weight_link``, one of ``definitions.iqe.WEIGHT_LINKS``, turns ``max_weight`` into the weight of the maximum.
``max_weight`` is None unless the reduction is maxmean: one number for all rows, 0-d, or (G,), one for each of G equal
runs of neighbouring rows, or in pairwise ops of neighbouring matrices.

``ends``     uint8 (..., C, ceil(2K / 8)): bit k of a component's bytes marks x_k as a left end of the union, bit K + k
             marks y_k as a right end (bit b is bit b % 8 of byte b // 8). Backward needs nothing else of x and y. A
             component with a NaN has every x and no y marked, which no union has.
``largest``  int32 (...): index of the first longest component, for max, maxmean and spread; arbitrary if one is NaN.
``spread``   (...): greatest length - mean length, for maxmean: the derivative by the weight.

NaN: a component with a NaN coordinate has a NaN length, and all its coordinates, x and y, have NaN gradients for any
upstream gradient, even 0; in pairwise ops so does every row paired with it. Other components have the gradients of
their ends. An upstream gradient that is not finite reaches only the ends; other coordinates get 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import iqe as definition


def iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Returns ``out`` (...) or (..., C) for x, y (..., D), then ``ends, largest, spread``, None unless ``keep``."""
    lengths = definition.components(x, y, dim_per_component)
    weights = definition.weights_of_rows(max_weight, weight_link, x.shape[:-1])
    out = definition.reduce(lengths, reduction, weights)
    ends = largest = spread = None
    if keep:
        ends = definition.pack_ends(*definition.ends(x, y, dim_per_component))
        if definition.keeps_largest(reduction):
            largest = lengths.argmax(dim=-1).to(torch.int32)
        if reduction == "maxmean":
            spread = definition.reduce(lengths, "spread")
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor,
    ends: Tensor,
    largest: Tensor | None,
    spread: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
    like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns ``grad_x``, ``grad_y`` (..., D) from what forward kept, and on request the gradient by ``max_weight``.

    The first two are in the dtype of ``like``, which is given where x and y are in half precision.
    """
    left, right = definition.unpack_ends(ends, dim_per_component)
    weights = definition.weights_of_rows(max_weight, weight_link, ends.shape[:-2])
    grads = definition.gradient(grad_out, left, right, largest, weights, reduction)
    if not need_weight:
        return *grads, None
    return *grads, definition.weight_gradient(grad_out, spread, max_weight, weight_link)


def iqe_pairwise_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns ``out`` (B, N, M) or (B, N, M, C) for x (B, N, D) and y (B, M, D), and ``largest`` (B, N, M); works row
    by row."""
    out, largest = definition.iqe_pairwise_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    weights = definition.weights_of_rows(max_weight, weight_link, (x.shape[0], 1))
    for i in range(x.shape[1]):
        lengths = definition.components(x[:, i : i + 1], y, dim_per_component)
        out[:, i] = definition.reduce(lengths, reduction, weights)
        if largest is not None:
            largest[:, i] = lengths.argmax(dim=-1)
    return out, largest


def iqe_pairwise_backward(
    grad_out: Tensor,
    x: Tensor,
    y: Tensor,
    largest: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns ``grad_x`` (B, N, D), ``grad_y`` (B, M, D) and on request the gradient by ``max_weight``; works row by
    row."""
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    grad_max_weight = torch.zeros_like(max_weight) if need_weight else None
    weights = definition.weights_of_rows(max_weight, weight_link, (x.shape[0], 1))
    for i in range(x.shape[1]):
        row = x[:, i : i + 1]
        slopes = definition.slopes(*definition.ends(row, y, dim_per_component))
        row_largest = largest[:, i] if definition.keeps_largest(reduction) else largest
        of_row, of_others = definition.gradient(grad_out[:, i], *slopes, row_largest, weights, reduction)
        grad_x[:, i] = of_row.sum(dim=1)
        grad_y += of_others
        if need_weight:
            spread = definition.reduce(definition.components(row, y, dim_per_component), "spread")
            grad_max_weight += definition.weight_gradient(grad_out[:, i], spread, max_weight, weight_link)
    return grad_x, grad_y, grad_max_weight

"""IQE on the reference backend, and the definition of what every backend's IQE functions take and return.

All tensors are contiguous, on one device, float32 or float64 (``max_weight`` 0-d, of the same dtype). K is
``dim_per_component``, C = D / K, ``reduction`` one of ``definitions.iqe.REDUCTIONS``. A tensor that is not needed is
returned empty, of shape (0,).

``ends``     uint8 (..., C, ceil(2K / 8)): bit k of a component's bytes says that x_k is a left end of the union, bit
             K + k that y_k is a right end (bit b is bit b % 8 of byte b // 8). All that backward needs of x and y.
             In a component with a NaN every x is marked and no y, which no union has.
``largest``  int32 (...): the first component of the greatest length, for max, maxmean and spread; any where one is NaN.
``spread``   (...): greatest length - mean length, for maxmean: the derivative by ``max_weight``.

NaN: a component with a NaN coordinate has a NaN length, and the gradients of all its coordinates, x and y, are NaN
whatever the upstream gradient, 0 included; in pairwise ops in every row that is paired with it. Other components have
the gradients of their ends. An upstream gradient that is not finite reaches the ends alone; other coordinates get 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import iqe as definition


def pack_ends(left: Tensor, right: Tensor) -> Tensor:
    """Two bool tensors (..., C, K) to their bytes (..., C, ceil(2K / 8))."""
    bits = torch.cat([left, right], dim=-1).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits << places).sum(dim=-1, dtype=torch.uint8)


def unpack_ends(ends: Tensor, dim_per_component: int) -> tuple[Tensor, Tensor]:
    """The inverse of `pack_ends`: two uint8 tensors (..., C, K) of zeros and ones."""
    places = torch.arange(8, dtype=torch.uint8, device=ends.device)
    bits = ((ends.unsqueeze(-1) >> places) & 1).flatten(-2)
    return bits[..., :dim_per_component], bits[..., dim_per_component : 2 * dim_per_component]


def component_weights(
    num_components: int, largest: Tensor, max_weight: Tensor | None, reduction: str, dtype: torch.dtype
) -> Tensor | float:
    """The derivative of the reduction by each component's length, (..., C), or one number where all are alike."""
    if reduction in ("none", "sum"):
        return 1.0
    if reduction == "mean":
        return 1.0 / num_components
    is_largest = (largest.unsqueeze(-1) == torch.arange(num_components, device=largest.device)).to(dtype)
    if reduction == "max":
        return is_largest
    if reduction == "spread":
        return is_largest - 1.0 / num_components
    return (1.0 - max_weight) / num_components + max_weight * is_largest


def _component_gradients(
    grad_out: Tensor, num_components: int, largest: Tensor, max_weight: Tensor | None, reduction: str
) -> Tensor:
    if reduction == "none":
        return grad_out
    weights = component_weights(num_components, largest, max_weight, reduction, grad_out.dtype)
    return (grad_out.unsqueeze(-1) * weights).expand(*grad_out.shape, num_components)


def _needs_largest(reduction: str) -> bool:
    return reduction in ("max", "maxmean", "spread")


def iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``out`` (...) or (..., C) of x, y (..., D), then ``ends``, ``largest``, ``spread``: empty unless ``keep``."""
    lengths = definition.components(x, y, dim_per_component)
    out = definition.reduce(lengths, reduction, max_weight)
    ends, largest, spread = x.new_empty(0, dtype=torch.uint8), x.new_empty(0, dtype=torch.int32), x.new_empty(0)
    if keep:
        ends = pack_ends(*definition.ends(x, y, dim_per_component))
        if _needs_largest(reduction):
            largest = lengths.argmax(dim=-1).to(torch.int32)
        if reduction == "maxmean":
            spread = definition.reduce(lengths, "spread")
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor, ends: Tensor, largest: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """``grad_x`` and ``grad_y`` (..., D) from what forward kept."""
    left, right = unpack_ends(ends, dim_per_component)
    grad = _component_gradients(grad_out, ends.shape[-2], largest, max_weight, reduction).unsqueeze(-1)
    return (-grad * left).flatten(-2), (grad * right).flatten(-2)


def iqe_pairwise_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """``out`` (B, N, M) or (B, N, M, C) of x (B, N, D) and y (B, M, D), and ``largest`` (B, N, M), row by row."""
    num_components = x.shape[-1] // dim_per_component
    pairs = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty(*pairs, num_components) if reduction == "none" else x.new_empty(pairs)
    keep = keep and _needs_largest(reduction)
    largest = x.new_empty(pairs if keep else 0, dtype=torch.int32)
    for i in range(x.shape[1]):
        lengths = definition.components(x[:, i : i + 1], y, dim_per_component)
        out[:, i] = definition.reduce(lengths, reduction, max_weight)
        if keep:
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
    num_components = x.shape[-1] // dim_per_component
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    grad_max_weight = x.new_zeros(() if need_weight_gradient else 0)
    for i in range(x.shape[1]):
        row = x[:, i : i + 1]
        left, right = definition.ends(row, y, dim_per_component)
        row_largest = largest[:, i] if _needs_largest(reduction) else largest
        grad = _component_gradients(grad_out[:, i], num_components, row_largest, max_weight, reduction).unsqueeze(-1)
        grad_x[:, i] = -(grad * left).sum(dim=1).flatten(-2)
        grad_y += (grad * right).flatten(-2)
        if need_weight_gradient:
            spread = definition.reduce(definition.components(row, y, dim_per_component), "spread")
            grad_max_weight += (grad_out[:, i] * spread).sum()
    return grad_x, grad_y, grad_max_weight

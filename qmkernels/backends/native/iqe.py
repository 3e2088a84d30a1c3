"""IQE on the compiled core, CPU and CUDA. The contract: backends/reference/iqe.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import iqe as definition
from . import core


def iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    out, ends, largest, spread = definition.iqe_forward_outputs(x, y, max_weight, dim_per_component, reduction, keep)
    if out.numel():
        core.kernels.iqe_forward(
            x=x, y=y, max_weight=max_weight, out=out, ends=ends, largest=largest, spread=spread,
            rows=rows.numel(), num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor, ends: Tensor, largest: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str
) -> tuple[Tensor, Tensor]:
    rows, num_components = ends.shape[:-2], ends.shape[-2]
    expected = (*rows, num_components) if reduction == "none" else rows
    if grad_out.shape != expected or (definition.keeps_largest(reduction) and largest.shape != rows):
        raise ValueError(f"iqe_backward: grad_out must be {tuple(expected)}, got {tuple(grad_out.shape)}.")
    grad_x, grad_y = definition.iqe_backward_outputs(grad_out, ends, largest, max_weight, dim_per_component, reduction)
    if grad_x.numel():
        core.kernels.iqe_backward(
            grad_out=grad_out, ends=ends, largest=largest, max_weight=max_weight, grad_x=grad_x, grad_y=grad_y,
            rows=rows.numel(), num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    return grad_x, grad_y


def iqe_pairwise_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor]:
    pairs, num_components = (x.shape[0], x.shape[1], y.shape[1]), x.shape[-1] // dim_per_component
    out, largest = definition.iqe_pairwise_forward_outputs(x, y, max_weight, dim_per_component, reduction, keep)
    if out.numel():
        core.kernels.iqe_pairwise_forward(
            x=x, y=y, max_weight=max_weight, out=out, largest=largest, batch=pairs[0], num_x=pairs[1], num_y=pairs[2],
            num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
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
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y), x.new_zeros(() if need_weight_gradient else 0)
    batch, num_x, num_components = x.shape[0], x.shape[1], x.shape[-1] // dim_per_component
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    # One partial sum per component and row of x, added up below in a fixed order.
    partial = x.new_empty((batch, num_components, num_x) if need_weight_gradient else 0)
    core.kernels.iqe_pairwise_backward(
        grad_out=grad_out, x=x, y=y, largest=largest, max_weight=max_weight, grad_x=grad_x, grad_y=grad_y,
        partial_max_weight=partial, batch=batch, num_x=num_x, num_y=y.shape[1], num_components=num_components,
        dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grad_x, grad_y, partial.sum(dtype=torch.float64).to(x.dtype) if need_weight_gradient else partial

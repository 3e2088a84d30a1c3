"""PQE-LH on the compiled core, CPU and CUDA. The contract: backends/reference/pqe.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import pqe as definition
from . import core


def pqe_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    out = definition.pqe_forward_outputs(x, y, weights, dim_per_component)
    if out.numel():
        core.launch(
            "pqe_forward", x.device, x.element_size(), x, y, weights, out,
            rows.numel(), num_components, dim_per_component,
        )  # fmt: skip
    return out


def pqe_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1].numel(), x.shape[-1] // dim_per_component
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    if not x.numel():
        return grad_x, grad_y, x.new_zeros(num_components if need_weights else 0)
    # Partial sums, one row of weights a group of rows, added up below in a fixed order.
    groups = core.call("pqe_weight_groups", x.device, rows) if need_weights else 0
    partial = x.new_empty(groups, num_components)
    core.launch(
        "pqe_backward", x.device, x.element_size(), grad_out, x, y, weights, grad_x, grad_y,
        partial if need_weights else None, rows, num_components, dim_per_component,
    )  # fmt: skip
    return grad_x, grad_y, partial.sum(dim=0) if need_weights else x.new_empty(0)


def _sizes(x: Tensor, y: Tensor, dim_per_component: int) -> tuple[int, ...]:
    return x.shape[0], x.shape[1], y.shape[1], x.shape[-1] // dim_per_component, dim_per_component


def _workspace(x: Tensor, sizes: tuple[int, ...], backward: bool) -> Tensor:
    num_bytes = core.call("pqe_pairwise_workspace", x.device, x.element_size(), *sizes, backward)
    return core.scratch(num_bytes, x.device)


def pqe_pairwise_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    sizes = _sizes(x, y, dim_per_component)
    out = definition.pqe_pairwise_forward_outputs(x, y, weights, dim_per_component)
    if out.numel():
        workspace = _workspace(x, sizes, False)
        core.launch("pqe_pairwise_forward", x.device, x.element_size(), x, y, weights, out, workspace, *sizes)
    return out


def pqe_pairwise_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = _sizes(x, y, dim_per_component)
    batch, num_x, num_components = sizes[0], sizes[1], sizes[3]
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y), x.new_zeros(num_components if need_weights else 0)
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    # One partial sum a row of x and component, added up below in a fixed order.
    partial = x.new_empty((batch, num_x, num_components) if need_weights else 0)
    core.launch(
        "pqe_pairwise_backward", x.device, x.element_size(),
        grad_out, x, y, weights, grad_x, grad_y, partial, _workspace(x, sizes, True), *sizes,
    )  # fmt: skip
    return grad_x, grad_y, partial.sum(dim=(0, 1)) if need_weights else partial

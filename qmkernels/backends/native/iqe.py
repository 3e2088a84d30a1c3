"""IQE on the compiled core, CPU and CUDA. The contract: backends/reference/iqe.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import iqe as definition
from ...definitions.iqe import REDUCTIONS
from . import core

_CODES = {name: code for code, name in enumerate(REDUCTIONS)}


def iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    out, ends, largest, spread = definition.iqe_forward_outputs(x, y, max_weight, dim_per_component, reduction, keep)
    if out.numel():
        core.launch(
            "iqe_forward", x.device, x.element_size(),
            x, y, max_weight, out, ends, largest, spread,
            rows.numel(), num_components, dim_per_component, _CODES[reduction],
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
        core.launch(
            "iqe_backward", grad_out.device, grad_out.element_size(),
            grad_out, ends, largest, max_weight, grad_x, grad_y,
            rows.numel(), num_components, dim_per_component, _CODES[reduction],
        )  # fmt: skip
    return grad_x, grad_y


def _pairwise_sizes(x: Tensor, y: Tensor, dim_per_component: int, reduction: str) -> tuple[int, ...]:
    num_components = x.shape[-1] // dim_per_component
    return x.shape[0], x.shape[1], y.shape[1], num_components, dim_per_component, _CODES[reduction]


def _workspace(x: Tensor, sizes: tuple[int, ...], backward: bool) -> Tensor:
    num_bytes = core.call("iqe_pairwise_workspace", x.device, x.element_size(), *sizes, backward)
    return core.scratch(num_bytes, x.device)


def iqe_pairwise_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor]:
    sizes = _pairwise_sizes(x, y, dim_per_component, reduction)
    out, largest = definition.iqe_pairwise_forward_outputs(x, y, max_weight, dim_per_component, reduction, keep)
    if out.numel():
        workspace = _workspace(x, sizes, backward=False)
        core.launch(
            "iqe_pairwise_forward", x.device, x.element_size(), x, y, max_weight, out, largest, workspace, *sizes
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
    sizes = _pairwise_sizes(x, y, dim_per_component, reduction)
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y), x.new_zeros(() if need_weight_gradient else 0)
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    # One partial sum a component and row of x, added up below in a fixed order.
    grad_max_weight = x.new_empty((sizes[0], sizes[3], sizes[1]) if need_weight_gradient else 0)
    workspace = _workspace(x, sizes, backward=True)
    core.launch(
        "iqe_pairwise_backward", x.device, x.element_size(),
        grad_out, x, y, largest, max_weight, grad_x, grad_y, grad_max_weight, workspace, *sizes,
    )  # fmt: skip
    return grad_x, grad_y, grad_max_weight.sum() if need_weight_gradient else grad_max_weight

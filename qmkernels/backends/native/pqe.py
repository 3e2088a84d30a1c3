"""PQE-LH on the compiled core, CPU and CUDA. The contract: backends/reference/pqe.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import pqe as definition
from . import core

# The weights' gradient is summed in groups of a run's rows: few groups mean few partial sums, many fill a device.
_MOST_GROUPS = {"cpu": 64, "cuda": 8192}
_FEWEST_ROWS_PER_GROUP = 4


@core.replayable
def pqe_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    out = definition.pqe_forward_outputs(x, y, weights, dim_per_component)
    if out.numel():
        core.kernels.pqe_forward(
            x=x, y=y, weights=weights, out=out, rows=rows.numel(), num_weights=definition.num_weights(weights),
            num_components=num_components, dim_per_component=dim_per_component,
        )  # fmt: skip
    return out


def pqe_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1].numel(), x.shape[-1] // dim_per_component
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    if not x.numel():
        return grad_x, grad_y, torch.zeros_like(weights) if need_weights else None
    num_weights = definition.num_weights(weights)
    rows_per_group = max(-(-rows // _MOST_GROUPS[x.device.type]), _FEWEST_ROWS_PER_GROUP)
    groups_per_run = -(-(rows // num_weights) // rows_per_group)
    partial = grad_out.new_empty(*weights.shape[:-1], groups_per_run, num_components) if need_weights else None
    core.kernels.pqe_backward(
        grad_out=grad_out, x=x, y=y, weights=weights, grad_x=grad_x, grad_y=grad_y, partial_weights=partial,
        rows_per_group=rows_per_group, rows=rows, num_weights=num_weights, num_components=num_components,
        dim_per_component=dim_per_component,
    )  # fmt: skip
    return grad_x, grad_y, _summed(partial)


@core.replayable
def pqe_pairwise_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    pairs, num_components = (x.shape[0], x.shape[1], y.shape[1]), x.shape[-1] // dim_per_component
    out = definition.pqe_pairwise_forward_outputs(x, y, weights, dim_per_component)
    if out.numel():
        core.kernels.pqe_pairwise_forward(
            x=x, y=y, weights=weights, out=out, batch=pairs[0], num_x=pairs[1], num_y=pairs[2],
            num_weights=definition.num_weights(weights), num_components=num_components,
            dim_per_component=dim_per_component,
        )  # fmt: skip
    return out


def pqe_pairwise_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, num_x, num_components = x.shape[0], x.shape[1], x.shape[-1] // dim_per_component
    if not grad_out.numel():
        no_weights = torch.zeros_like(weights) if need_weights else None
        return torch.zeros_like(x), torch.zeros_like(y), no_weights
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    num_weights = definition.num_weights(weights)
    partial = x.new_empty(*weights.shape[:-1], batch // num_weights * num_x, num_components) if need_weights else None
    core.kernels.pqe_pairwise_backward(
        grad_out=grad_out, x=x, y=y, weights=weights, grad_x=grad_x, grad_y=grad_y, partial_weights=partial,
        batch=batch, num_x=num_x, num_y=y.shape[1], num_weights=num_weights, num_components=num_components,
        dim_per_component=dim_per_component,
    )  # fmt: skip
    return grad_x, grad_y, _summed(partial)


def _summed(partial: Tensor | None) -> Tensor | None:
    """Adds up partial sums in double, in a fixed order; None if there are none."""
    return None if partial is None else partial.sum(dim=-2, dtype=torch.float64).to(partial.dtype)

"""IQE on the compiled core, CPU and CUDA. The contract: backends/reference/iqe.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...definitions import iqe as definition
from . import core


def _num_weights(max_weight: Tensor | None) -> int:
    return 1 if max_weight is None else max_weight.numel()


def iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, ends, largest, spread = definition.iqe_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    if out.numel():
        core.kernels.iqe_forward(
            x=x, y=y, max_weight=max_weight, num_weights=_num_weights(max_weight), weight_link=weight_link,
            out=out, ends=ends, largest=largest, spread=spread, rows=x.numel() // x.shape[-1],
            num_components=x.shape[-1] // dim_per_component, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kept = ends.shape
    rows, num_components = math.prod(kept[:-2]), kept[-2]
    expected = rows * num_components if reduction == "none" else rows
    if grad_out.numel() != expected or (definition.keeps_largest(reduction) and largest.numel() != rows):
        raise ValueError(f"iqe_backward: grad_out must have {expected} values, got {tuple(grad_out.shape)}.")
    grad_x, grad_y, grad_max_weight = definition.iqe_backward_outputs(
        grad_out, ends, largest, spread, max_weight, dim_per_component, reduction, weight_link, need_weight
    )
    if rows:
        core.kernels.iqe_backward(
            grad_out=grad_out, ends=ends, largest=largest, spread=spread,
            max_weight=max_weight, num_weights=_num_weights(max_weight), weight_link=weight_link,
            grad_x=grad_x, grad_y=grad_y, grad_max_weight=grad_max_weight, rows=rows,
            num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
        return grad_x, grad_y, grad_max_weight
    return grad_x, grad_y, grad_max_weight.zero_()


def iqe_pairwise_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    out, largest = definition.iqe_pairwise_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    if out.numel():
        core.kernels.iqe_pairwise_forward(
            x=x, y=y, max_weight=max_weight, num_weights=_num_weights(max_weight), weight_link=weight_link,
            out=out, largest=largest, batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1],
            num_components=x.shape[-1] // dim_per_component, dim_per_component=dim_per_component, reduction=reduction,
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
    weight_link: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = grad_x, grad_y, grad_max_weight = definition.iqe_pairwise_backward_outputs(
        grad_out, x, y, largest, max_weight, dim_per_component, reduction, weight_link, need_weight
    )
    if not grad_out.numel():
        return tuple(map(torch.zero_, grads))
    core.kernels.iqe_pairwise_backward(
        grad_out=grad_out, x=x, y=y, largest=largest,
        max_weight=max_weight, num_weights=_num_weights(max_weight), weight_link=weight_link,
        grad_x=grad_x, grad_y=grad_y, grad_max_weight=grad_max_weight,
        batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1], num_components=x.shape[-1] // dim_per_component,
        dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grads

"""IQE on the compiled core, CPU and CUDA. The contract: backends/reference/iqe.py."""

from __future__ import annotations

import math

from torch import Tensor

from ...definitions import iqe as definition
from . import core


@core.replayable
def iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    out, ends, largest, spread = outputs = definition.iqe_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    if rows := x.shape[:-1].numel():
        core.kernels.iqe_forward(
            x=x, y=y, max_weight=max_weight, num_weights=1 if max_weight is None else max_weight.numel(),
            weight_link=weight_link, out=out, ends=ends, largest=largest, spread=spread, rows=rows,
            num_components=x.shape[-1] // dim_per_component, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    return outputs


@core.replayable
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
    *kept, num_components, _ = ends.shape
    rows = math.prod(kept)
    expected = rows * num_components if reduction == "none" else rows
    if grad_out.numel() != expected or (definition.keeps_largest(reduction) and largest.numel() != rows):
        raise ValueError(f"iqe_backward: grad_out must have {expected} values, got {tuple(grad_out.shape)}.")
    grads = grad_x, grad_y, grad_max_weight = definition.iqe_backward_outputs(
        grad_out, ends, largest, spread, max_weight, dim_per_component, reduction, weight_link, need_weight, like
    )  # fmt: skip
    if rows:
        core.kernels.iqe_backward(
            grad_out=grad_out, ends=ends, largest=largest, spread=spread,
            max_weight=max_weight, num_weights=1 if max_weight is None else max_weight.numel(), weight_link=weight_link,
            grad_x=grad_x, grad_y=grad_y, grad_max_weight=grad_max_weight, rows=rows,
            num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    elif need_weight:
        grad_max_weight.zero_()
    return grads


@core.replayable
def iqe_pairwise_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    out, largest = definition.iqe_pairwise_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    if out.numel():
        core.kernels.iqe_pairwise_forward(
            x=x, y=y, max_weight=max_weight, num_weights=1 if max_weight is None else max_weight.numel(),
            weight_link=weight_link, out=out, largest=largest, batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1],
            num_components=x.shape[-1] // dim_per_component, dim_per_component=dim_per_component, reduction=reduction,
        )  # fmt: skip
    return out, largest


@core.replayable
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
    grads = grad_x, grad_y, grad_max_weight = definition.iqe_pairwise_backward_outputs(
        grad_out, x, y, largest, max_weight, dim_per_component, reduction, weight_link, need_weight
    )
    if not grad_out.numel():
        return tuple(None if grad is None else grad.zero_() for grad in grads)
    core.kernels.iqe_pairwise_backward(
        grad_out=grad_out, x=x, y=y, largest=largest,
        max_weight=max_weight, num_weights=1 if max_weight is None else max_weight.numel(), weight_link=weight_link,
        grad_x=grad_x, grad_y=grad_y, grad_max_weight=grad_max_weight,
        batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1], num_components=x.shape[-1] // dim_per_component,
        dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grads

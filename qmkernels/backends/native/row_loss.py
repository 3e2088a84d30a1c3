"""Losses over rows of distances on the compiled core, CPU and CUDA. The contract: backends/reference/row_loss.py."""

from __future__ import annotations

from torch import Tensor

from ...arguments.iqe import IqeSettings
from ...arguments.mrn import MrnSettings
from ...arguments.row_loss import RowLossSettings
from ...definitions import row_loss as definition
from . import core


@core.replayable
def row_loss_iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    *settings,
) -> tuple[Tensor, ...]:
    loss, stats, slopes, ends, largest, spread = outputs = definition.row_loss_iqe_forward_outputs(
        x, y, max_weight, target, weight, mask, *settings
    )
    rows, dim = x.shape
    iqe = IqeSettings(*settings[:3])
    core.kernels.row_loss_iqe_forward(
        x=x, y=y, max_weight=max_weight, num_weights=1, weight_link=iqe.weight_link,
        ends=ends, largest=largest, spread=spread,
        target=target, num_targets=target.numel(), weight=weight, mask=mask, loss=loss, stats=stats, slopes=slopes,
        rows=rows, num_components=dim // iqe.dim_per_component, dim_per_component=iqe.dim_per_component,
        reduction=iqe.reduction, settings=RowLossSettings(*settings[3:]),
    )  # fmt: skip
    return outputs


@core.replayable
def row_loss_iqe_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, num_components, _ = ends.shape
    grad_x, grad_y, grad_max_weight = grads = definition.row_loss_iqe_backward_outputs(
        grad_loss, slopes, ends, largest, spread, max_weight, like, dim_per_component, reduction, weight_link
    )
    core.kernels.row_loss_iqe_backward(
        grad_loss=grad_loss, slopes=slopes, ends=ends, largest=largest, spread=spread,
        max_weight=max_weight, num_weights=1, weight_link=weight_link,
        grad_x=grad_x, grad_y=grad_y, grad_max_weight=grad_max_weight, rows=rows,
        num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grads


@core.replayable
def row_loss_mrn_forward(
    x: Tensor, y: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor]:
    loss, stats, slopes = outputs = definition.row_loss_mrn_forward_outputs(x, y, target, weight, mask)
    fields = len(MrnSettings._fields)
    rows, dim = x.shape
    core.kernels.row_loss_mrn_forward(
        x=x, y=y, target=target, num_targets=target.numel(), weight=weight, mask=mask,
        loss=loss, stats=stats, slopes=slopes, rows=rows, dim=dim,
        mrn=MrnSettings(*settings[:fields]), settings=RowLossSettings(*settings[fields:]),
    )  # fmt: skip
    return outputs


@core.replayable
def row_loss_mrn_backward(grad_loss: Tensor, slopes: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.row_loss_mrn_backward_outputs(grad_loss, slopes, x, y)
    rows, dim = x.shape
    core.kernels.row_loss_mrn_backward(
        grad_loss=grad_loss, slopes=slopes, x=x, y=y, grad_x=grad_x, grad_y=grad_y, rows=rows, dim=dim,
        mrn=MrnSettings(*settings),
    )  # fmt: skip
    return grad_x, grad_y

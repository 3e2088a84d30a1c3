"""MRN on the compiled core, CPU and CUDA. The contract: backends/reference/mrn.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments.mrn import MrnSettings
from ...definitions import mrn as definition
from . import core


@core.replayable
def mrn_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    rows, out = x.shape[:-1], definition.mrn_forward_outputs(x, y, *settings)
    if out.numel():
        core.kernels.mrn_forward(x=x, y=y, out=out, rows=rows.numel(), dim=x.shape[-1], settings=MrnSettings(*settings))
    return out


@core.replayable
def mrn_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = grads = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    if x.numel():
        core.kernels.mrn_backward(
            grad_out=grad_out, x=x, y=y, grad_x=grad_x, grad_y=grad_y,
            rows=x.shape[:-1].numel(), dim=x.shape[-1], settings=MrnSettings(*settings),
        )  # fmt: skip
    return grads


@core.replayable
def mrn_pairwise_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    out = definition.mrn_pairwise_forward_outputs(x, y, *settings)
    if out.numel():
        core.kernels.mrn_pairwise_forward(
            x=x, y=y, out=out,
            batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1], dim=x.shape[2], settings=MrnSettings(*settings),
        )  # fmt: skip
    return out


@core.replayable
def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y)
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    core.kernels.mrn_pairwise_backward(
        grad_out=grad_out, x=x, y=y, grad_x=grad_x, grad_y=grad_y,
        batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1], dim=x.shape[2], settings=MrnSettings(*settings),
    )  # fmt: skip
    return grad_x, grad_y

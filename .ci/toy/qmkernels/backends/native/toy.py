"""The toy op on the compiled core, CPU and CUDA. The contract: backends/reference/toy.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import toy as definition
from ...definitions.toy import ToySettings
from . import core


@core.replayable
def toy_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    out = definition.toy_forward_outputs(x, y, *settings)
    if out.numel():
        core.kernels.toy_forward(x=x, y=y, out=out, rows=out.numel(), dim=x.shape[-1], settings=ToySettings(*settings))
    return out


@core.replayable
def toy_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.toy_backward_outputs(grad_out, x, y, *settings)
    if x.numel():
        core.kernels.toy_backward(
            grad_out=grad_out, x=x, y=y, grad_x=grad_x, grad_y=grad_y,
            rows=grad_out.numel(), dim=x.shape[-1], settings=ToySettings(*settings),
        )  # fmt: skip
    return grad_x, grad_y

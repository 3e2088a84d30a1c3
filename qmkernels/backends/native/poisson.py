"""Poisson comparisons on the compiled core, CPU and CUDA. The contract: backends/reference/poisson.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import poisson as definition
from . import core


@core.replayable
def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    out = definition.poisson_forward_outputs(a, b, comparison)
    if out.numel():
        core.kernels.poisson_forward(a=a, b=b, out=out, count=a.numel(), comparison=comparison)
    return out


@core.replayable
def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = definition.poisson_backward_outputs(grad_out, a, b, comparison)
    if a.numel():
        core.kernels.poisson_backward(
            grad_out=grad_out, a=a, b=b, grad_a=grad_a, grad_b=grad_b, count=a.numel(), comparison=comparison
        )
    return grad_a, grad_b

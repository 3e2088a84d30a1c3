"""Poisson comparisons on the compiled core, CPU and CUDA. The contract: backends/reference/poisson.py."""

from __future__ import annotations

import torch
from torch import Tensor

from . import core


def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    out = torch.empty_like(a)
    if out.numel():
        core.kernels.poisson_forward(a=a, b=b, out=out, count=a.numel(), comparison=comparison)
    return out


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    if a.numel():
        core.kernels.poisson_backward(
            grad_out=grad_out, a=a, b=b, grad_a=grad_a, grad_b=grad_b, count=a.numel(), comparison=comparison
        )
    return grad_a, grad_b

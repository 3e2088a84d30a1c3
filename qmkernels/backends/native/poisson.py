"""Poisson comparisons on the compiled core, CPU and CUDA. The contract: backends/reference/poisson.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.poisson import COMPARISONS
from . import core


def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    out = torch.empty_like(a)
    if out.numel():
        core.launch("poisson_forward", a.device, a.element_size(), a, b, out, a.numel(), COMPARISONS.index(comparison))
    return out


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    if a.numel():
        core.launch(
            "poisson_backward",
            a.device,
            a.element_size(),
            grad_out,
            a,
            b,
            grad_a,
            grad_b,
            a.numel(),
            COMPARISONS.index(comparison),
        )
    return grad_a, grad_b

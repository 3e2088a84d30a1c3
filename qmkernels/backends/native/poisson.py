"""Poisson comparisons on the compiled core, CPU and CUDA. The contract: backends/reference/poisson.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import poisson as definition
from ...definitions.poisson import COMPARISONS
from . import core


def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    out = definition.poisson_forward_outputs(a, b, comparison)
    if out.numel():
        core.launch("poisson_forward", a.device, a.element_size(), a, b, out, a.numel(), COMPARISONS.index(comparison))
    return out


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = definition.poisson_backward_outputs(grad_out, a, b, comparison)
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

"""Poisson comparisons on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, of one shape, on one device, float32 or float64; ``comparison`` is one of
``definitions.poisson.COMPARISONS``. Other backends compute in double for either dtype.
"""

from __future__ import annotations

from torch import Tensor

from ...definitions import poisson as definition


def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    """Returns ``out``, of the shape of a and b."""
    return definition.poisson(a.double(), b.double(), comparison).to(a.dtype)


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    """Returns ``grad_a``, ``grad_b``, of the same shape: for "le" grad_out * -Pr[X = Y], grad_out * Pr[X = Y + 1]."""
    grad_a, grad_b = definition.gradient(grad_out.double(), a.double(), b.double(), comparison)
    return grad_a.to(a.dtype), grad_b.to(b.dtype)

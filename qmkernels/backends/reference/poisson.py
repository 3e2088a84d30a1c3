"""Poisson comparisons on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, of one shape, on one device, float32 or float64; ``form`` is one of
``reference.poisson.FORMS``. Other backends compute in double whatever the dtype.
"""

from __future__ import annotations

from torch import Tensor

from ...reference import poisson as definition


def poisson_forward(a: Tensor, b: Tensor, form: str) -> Tensor:
    """``out``, of the shape of a and b."""
    return definition.poisson(a.double(), b.double(), form).to(a.dtype)


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """``grad_a`` and ``grad_b``, of the same shape: for "le" grad_out * -Pr[X = Y] and grad_out * Pr[X = Y + 1]."""
    grad_a, grad_b = definition.gradient(grad_out.double(), a.double(), b.double(), form)
    return grad_a.to(a.dtype), grad_b.to(b.dtype)

"""The toy op on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. x and y are (..., D), of one shape.
"""

from __future__ import annotations

from torch import Tensor

from ...definitions import toy as definition


def toy_forward(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """``out`` (...)."""
    return definition.toy(x, y, factor)


def toy_backward(grad_out: Tensor, x: Tensor, y: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """``grad_x`` and ``grad_y``, (..., D)."""
    return definition.gradient(grad_out, x, y, factor)

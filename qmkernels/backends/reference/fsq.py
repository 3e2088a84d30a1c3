"""Finite scalar quantisation on the reference backend, and what every backend's functions take and return.

``z`` (..., G * n) is contiguous, float32 or float64, or in half precision, as for IQE; ``levels`` are n ints from 2 to
``arguments.fsq.MOST_LEVELS`` whose product is below 2^63. Forward keeps nothing: backward computes the tanh again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...definitions import fsq as definition


def fsq_forward(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns ``codes``, of z's shape, and ``indices`` (..., G), int64; NaN gives code NaN and its group index -1."""
    return definition.fsq(z, levels)


def fsq_backward(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    """Returns ``grad_z``, straight through the rounding; ``grad_codes`` is contiguous, of z's shape and dtype."""
    return definition.gradient(grad_codes, z, levels)

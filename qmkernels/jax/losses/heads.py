"""How the losses call a head."""

from __future__ import annotations

from jax import Array

from .checks import Head


def every_pair(head: Head, x: Array, y: Array) -> Array:
    """Returns the distances (..., N, M) from every row of x, (..., N, D), to every row of y, (..., M, D).

    The distances of `qmkernels.jax` tell from such shapes that all pairs are meant.
    """
    pairwise = getattr(head, "pairwise", None)
    return head(x[..., :, None, :], y[..., None, :, :]) if pairwise is None else pairwise(x, y)

"""Calls of the op `pair_loss` for the pairwise losses, and what it leaves to `jax.numpy`."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from ...arguments.pair_loss import PairLossSettings, PairLossStats
from ..arrays import absent
from ..pair_loss import pair_loss as by_kernel


def pair_loss(distance: Array, after: Array | None, settings: PairLossSettings) -> tuple[Array, PairLossStats]:
    """Returns the loss and its diagnostics of distances (..., N, M); ``after``, of their shape, gets no gradient."""
    matrices = distance.reshape(-1, *distance.shape[-2:])
    after = absent(distance) if after is None else stop_gradient(after).reshape(matrices.shape)
    no_places = jnp.zeros((0,), jnp.int32)
    loss, stats = by_kernel(matrices, after, absent(distance), no_places, settings=settings)
    return loss, PairLossStats(*stop_gradient(stats))


def matching(matrix: Array, offset: int) -> Array:
    """Returns the entries of the matches, (..., N), of a matrix (..., N, M)."""
    return jnp.diagonal(matrix, offset=offset, axis1=-2, axis2=-1)


def divergence(distance: Array, after: Array, log_discount: Array, clip: float) -> Array:
    """Returns discount * exp(delta) - distance where delta = distance - after is at most ``clip``, else delta, for a
    log of the discount that is 0-d or one per row, (..., N), and has a gradient, which the op does not give."""
    delta = distance - after
    is_clipped = delta > clip
    grown = jnp.exp(jnp.where(is_clipped, clip, delta) + log_discount[..., None]) - distance
    return jnp.where(is_clipped, delta, grown)


def lead(distance: Array, kind: str, scale: float, offset: int) -> Array:
    """Returns by how much the softmaxes' matching logits exceed the mean of their others, the mean over the directions.

    That, times the smoothing, is what smoothed targets add to a cross-entropy.
    """
    logits, rows = -scale * distance, distance.shape[-2]
    positive = matching(logits, offset)
    totals = []
    if kind != "backward":
        totals.append((logits.sum(axis=-1), logits.shape[-1]))
    if kind != "forward":
        totals.append((logits[..., offset : offset + rows].sum(axis=-2), rows))
    sides = [(positive - (total - positive) / (n - 1)).mean() for total, n in totals if n > 1]
    return sum(sides) / len(totals) if sides else jnp.zeros((), distance.dtype)

"""The pairwise losses as functions of a matrix of distances (..., N, M), composed of `jax.numpy`.

Row i is a state, column j a goal, and j = i + offset the match of i. Leading dimensions are an ensemble, over which
everything is averaged. `qmkernels.definitions.pair_loss` is the same in PyTorch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

# Added to distances before their logarithm.
EPS = 1e-6


class Contrast(NamedTuple):
    """A contrastive term and its diagnostics, 0-d."""

    loss: Array
    positive: Array
    negative: Array
    logsumexp: Array
    accuracy: Array


class Softmaxes(NamedTuple):
    """Per softmax, (..., S): the matching logit, the largest logit, the log of the sum of exponentials relative to it,
    the sum of the logits and their number.

    The log-sum-exp is largest + log_sum. They stay separate because float32 keeps no digit of log_sum next to 1e9.
    """

    positive: Array
    largest: Array
    log_sum: Array
    total: Array
    count: int


def matching(matrix: Array, offset: int) -> Array:
    """Returns the entries of the matches, (..., N)."""
    return jnp.diagonal(matrix, offset=offset, axis1=-2, axis2=-1)


def contrast(
    distance: Array, kind: str, scale: float, offset: int, logsumexp_weight: float = 0.0, smoothing: float = 0.0
) -> Contrast:
    """Returns the contrastive term of the kind "backward", "forward", "symmetric" or "sigmoid"."""
    logits, count = -scale * distance, distance.shape[-2]
    positive = matching(logits, offset)
    if kind == "sigmoid":
        return _of_sigmoids(logits, positive)
    sides = []
    if kind != "backward":
        sides.append(_softmaxes(logits, positive, -1))
    if kind != "forward":
        sides.append(_softmaxes(logits[..., offset : offset + count], positive, -2))
    parts = [_of_softmaxes(side, logsumexp_weight, smoothing) for side in sides]
    return Contrast(*(sum(part) / len(part) for part in zip(*parts, strict=True)))


def _softmaxes(logits: Array, positive: Array, axis: int) -> Softmaxes:
    largest = stop_gradient(logits.max(axis=axis))
    highest = jnp.finfo(largest.dtype).max  # no exponential is of infinity - infinity
    below = logits - jnp.expand_dims(jnp.clip(largest, -highest, highest), axis)
    return Softmaxes(positive, largest, jax.nn.logsumexp(below, axis=axis), logits.sum(axis=axis), logits.shape[axis])


def _of_softmaxes(side: Softmaxes, logsumexp_weight: float, smoothing: float) -> Contrast:
    positive, largest, log_sum, total, count = side
    logsumexp = largest + log_sum
    loss = (largest - positive + log_sum).mean()
    if logsumexp_weight:
        loss = loss + logsumexp_weight * jnp.square(logsumexp).mean()
    others = (total - positive).mean() / max(1, count - 1)
    if smoothing and count > 1:
        loss = loss + smoothing * (positive.mean() - others)
    accuracy = (positive >= largest).astype(loss.dtype).mean()
    return Contrast(loss, *map(stop_gradient, (positive.mean(), others, logsumexp.mean(), accuracy)))


def _of_sigmoids(logits: Array, positive: Array) -> Contrast:
    """softplus of all logits, less the matching ones: softplus(-l) = softplus(l) - l."""
    columns = logits.shape[-1]
    loss = (jax.nn.softplus(logits).sum(axis=-1) - positive).mean() / columns
    others = (logits.sum(axis=-1) - positive).mean() / max(1, columns - 1)
    accuracy = (positive >= logits.max(axis=-1)).astype(loss.dtype).mean()
    return Contrast(loss, *map(stop_gradient, (positive.mean(), others, jnp.zeros_like(loss), accuracy)))


class Divergence(NamedTuple):
    """The LINEX term and its parts, 0-d; only ``loss`` has a gradient."""

    loss: Array
    everywhere: Array
    diagonal: Array
    difference: Array


def divergence(
    distance: Array, after: Array, log_discount: Array | float, clip: float, diagonal_weight: float, offset: int
) -> Divergence:
    """Returns the LINEX divergence of distances from those after a step, which get no gradient; the log of the discount
    is a number or (..., N)."""
    after = stop_gradient(after)
    log_discount = jnp.asarray(log_discount, distance.dtype)
    delta = distance - after
    is_clipped = delta > clip
    grown = jnp.exp(jnp.where(is_clipped, clip, delta) + jnp.expand_dims(log_discount, -1)) - distance
    terms = jnp.where(is_clipped, delta, grown)
    everywhere, diagonal = terms.mean(), matching(terms, offset).mean()
    loss = everywhere + diagonal_weight * (diagonal - everywhere)
    return Divergence(loss, *map(stop_gradient, (everywhere, diagonal, delta.mean())))


def log_distance(distance: Array) -> Array:
    return jnp.log(distance + EPS)

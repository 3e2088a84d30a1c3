"""Losses over a matrix of distances as one op, from distances to loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.pair_loss import SOFTMAXES, PairLossSettings, PairLossStats
from .batching import one_by_one
from .kernel_call import Op, Result

# Added to distances before their logarithm.
_EPS = 1e-6


def _results(distance: Any, after: Any, log_discounts: Any, places: Any, settings: PairLossSettings) -> list[Result]:
    sums = (2, *distance.shape[:2])
    return [
        Result((), distance.dtype), Result((len(PairLossStats._fields),), distance.dtype),
        Result(sums if settings.kind in ("forward", "symmetric") else (0,), distance.dtype),
        Result(sums if settings.kind in ("backward", "symmetric") else (0,), distance.dtype),
    ]  # fmt: skip


def _attributes(
    distance: Array, after: Array, log_discounts: Array, places: Array, settings: PairLossSettings
) -> dict[str, Any]:
    batch, rows, columns = distance.shape
    return dict(batch=batch, rows=rows, columns=columns, **settings._asdict())


def _softmax_terms(
    logits: Array, positive: Array, axis: int, settings: PairLossSettings
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns the cross-entropy with the matches and its diagnostics, for softmaxes along an axis."""
    largest = jax.lax.stop_gradient(logits.max(axis=axis))
    highest = jnp.finfo(logits.dtype).max
    log_sum = jax.nn.logsumexp(logits - jnp.expand_dims(jnp.clip(largest, -highest, highest), axis), axis=axis)
    logsumexp, others = largest + log_sum, max(1, logits.shape[axis] - 1)
    loss = (largest - positive + log_sum).mean() + settings.logsumexp_weight * jnp.square(logsumexp).mean()
    negative = (logits.sum(axis=axis) - positive).mean() / others
    accuracy = (positive >= largest).astype(logits.dtype).mean()
    return loss, positive.mean(), negative, logsumexp.mean(), accuracy


def _definition(
    distance: Array, after: Array, log_discounts: Array, places: Array, settings: PairLossSettings
) -> tuple[Array, Array]:
    rows, columns = distance.shape[-2:]
    matches = slice(settings.offset, settings.offset + rows)
    length = jnp.diagonal(distance[..., matches], axis1=-2, axis2=-1)
    zero = jnp.zeros((), distance.dtype)
    terms, linex, repelled = (zero,) * 5, (zero,) * 4, (zero,) * 2
    loss, logits, positive = zero, -settings.scale * distance, -settings.scale * length
    if settings.kind in SOFTMAXES:
        sides = []
        if settings.kind != "backward":
            sides.append(_softmax_terms(logits, positive, -1, settings))
        if settings.kind != "forward":
            sides.append(_softmax_terms(logits[..., matches], positive, -2, settings))
        terms = tuple(sum(part) / len(sides) for part in zip(*sides, strict=True))
        loss = terms[0]
    elif settings.kind == "sigmoid":
        loss = (jnp.logaddexp(logits, 0.0).sum(axis=-1) - positive).mean() / columns
        negative = (logits.sum(axis=-1) - positive).mean() / max(1, columns - 1)
        accuracy = (positive >= logits.max(axis=-1)).astype(distance.dtype).mean()
        terms = (loss, positive.mean(), negative, zero, accuracy)
    elif settings.kind == "repulsion":
        logs = jnp.log(distance + _EPS)
        others = logs.sum(axis=-1) - jnp.diagonal(logs[..., matches], axis1=-2, axis2=-1)
        repelled = jnp.square(length - settings.step).mean(), -others.mean() / max(1, columns - 1)
        loss = repelled[0] + settings.repulsion_weight * repelled[1]
    if after.size:
        log_discount = log_discounts[..., None] if log_discounts.size else settings.log_discount
        delta = distance - after
        is_clipped = delta > settings.clip
        grown = jnp.exp(jnp.where(is_clipped, settings.clip, delta) + log_discount) - distance
        parts = jnp.where(is_clipped, delta, grown)
        everywhere, diagonal = parts.mean(), jnp.diagonal(parts[..., matches], axis1=-2, axis2=-1).mean()
        both = everywhere + settings.diagonal_weight * (diagonal - everywhere)
        loss = loss + settings.linex_weight * both
        linex = both, everywhere, diagonal, delta.mean()
    return loss, jnp.stack([*terms, *linex, *repelled, length.mean(), zero])


# Maps distances (B, N, M), those after a step (B, N, M) and log_discounts (B, N) to loss and stats, PyTorch's
# `PairLossStats`. The last two may be without elements, and have no gradient; ``places``, of the pairs that are left
# out, are without elements: no loss here leaves pairs out, or has the form "coulomb".
pair_loss = Op(
    "pair_loss", num_wrt=1, num_results=4, num_outputs=2,
    results=_results,
    attributes=_attributes,
    backward_arguments=lambda grad, inputs, others: [grad, *inputs, *others[1:]],
    definition=_definition,
    batch=one_by_one,
)  # fmt: skip

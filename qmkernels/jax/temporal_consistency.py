"""iQRL's temporal consistency as one op, from latents to loss."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .batching import one_by_one
from .kernel_call import Op, Result

# Norms below this count as this.
_EPS = 1e-8


class TemporalConsistencySettings(NamedTuple):
    discount: float = 0.9


def _norm(x: Array) -> Array:
    """Computes the norms of rows, at least eps, with the norm's derivative, 0 at 0."""
    squares = jnp.square(x).sum(axis=-1)
    is_zero = squares == 0
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
    return norm + jnp.where(norm < _EPS, _EPS - norm, 0.0)


def _definition(
    predicted: Array, target: Array, mask: Array, settings: TemporalConsistencySettings
) -> tuple[Array, Array]:
    cosine = (predicted * target).sum(axis=-1) / (_norm(predicted) * _norm(target))
    losses = 1 - cosine
    if mask.size:
        losses = losses * mask
    weights = settings.discount ** jnp.arange(predicted.shape[0], dtype=predicted.dtype)
    return (weights * losses.mean(axis=-1)).sum(), cosine.mean(axis=-1)


# Maps predicted and target (H, B, D) and mask (H, B), or one without elements, to loss and similarity. target and mask
# have no gradient.
temporal_consistency = Op(
    "temporal_consistency", num_wrt=1, num_results=3, num_outputs=2,
    results=lambda predicted, target, mask, settings: [
        Result((), predicted.dtype), Result(predicted.shape[:1], predicted.dtype),
        Result((2, *predicted.shape[:2]), predicted.dtype),
    ],
    attributes=lambda predicted, target, mask, settings: dict(
        steps=predicted.shape[0], batch=predicted.shape[1], rows=predicted.shape[0] * predicted.shape[1],
        dim=predicted.shape[2], **settings._asdict(),
    ),
    backward_arguments=lambda grad, inputs, others: [grad, others[1], *inputs[:2]],
    definition=_definition,
    batch=one_by_one,
)  # fmt: skip

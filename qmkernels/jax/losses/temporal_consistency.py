"""iQRL's self-supervised loss."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from ..arrays import absent, in_compute_dtype
from ..temporal_consistency import TemporalConsistencySettings
from ..temporal_consistency import temporal_consistency as by_kernel
from . import checks

# Norms below this count as this.
EPS = 1e-8


class TemporalConsistency(NamedTuple):
    """``loss`` is the scalar to minimise; ``similarity`` (H,), without gradient, is the mean cosine per step."""

    loss: Array
    similarity: Array


def temporal_consistency(
    predicted: Array, target: Array, mask: Array | None = None, *, discount: Array | float = 0.9
) -> TemporalConsistency:
    r"""Compares latents rolled out by a model with encoded ones.

    .. math:: \sum_{h=0}^{H-1} \rho^h\, \overline{m_h (1 - \cos(\hat z_h, \bar z_h))}

    Args:
        predicted: latents of the rollout, ``(H, B, D)``; float32, float64, bfloat16 or float16.
        target: latents of the momentum encoder, of the same shape and dtype.
        mask: ``(H, B)`` bool or float, 0 from the step after a termination on. Default: all 1. It weights only the
            loss; the mean is over all rows, and ``similarity`` includes masked ones.
        discount: rho. Default 0.9.

    Returns:
        `TemporalConsistency`, in float32 for half latents, else in their dtype. The cosine of a zero vector is 0: norms
        below 1e-8 count as 1e-8.

    Gradients flow to predicted and a float mask, none to target. A NaN or infinity, even in a masked row, gives NaN in
    the loss, in the similarity of its step and in the gradient of its row; other rows keep their gradients.

    Raises:
        ValueError: latents that are not (H, B, D), differ in shape or are empty, or a mask of another shape.
        TypeError: latents that are not float arrays of one dtype.

    Source: Scannell et al. 2024, arXiv 2406.02696, equation 5.
    """
    checks.check_rows("temporal_consistency", predicted=predicted, target=target)
    if predicted.ndim != 3:
        raise ValueError(f"temporal_consistency: predicted must be (H, B, D), got {predicted.shape}.")
    predicted, target = map(in_compute_dtype, (predicted, stop_gradient(target)))
    if mask is not None and mask.shape != predicted.shape[:2]:
        raise ValueError(f"temporal_consistency: mask must be {predicted.shape[:2]}, got {mask.shape}.")
    if isinstance(discount, int | float) and (mask is None or mask.dtype == bool):
        weights = absent(predicted) if mask is None else mask.astype(predicted.dtype)
        loss, similarity = by_kernel(predicted, target, weights, settings=TemporalConsistencySettings(float(discount)))
        return TemporalConsistency(loss, stop_gradient(similarity))
    cosine = (_unit(predicted) * _unit(target)).sum(axis=-1)
    losses = 1 - cosine if mask is None else (1 - cosine) * mask.astype(cosine.dtype)
    weights = discount ** jnp.arange(len(predicted), dtype=cosine.dtype)
    return TemporalConsistency((weights * losses.mean(axis=-1)).sum(), stop_gradient(cosine.mean(axis=-1)))


def _unit(rows: Array) -> Array:
    """Returns the rows divided by their norms; the gradient of a zero row's norm is 0."""
    squared = jnp.square(rows).sum(axis=-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(squared == 0, 1, squared))
    return rows / jnp.where(squared == 0, EPS, jnp.where(norm < EPS, EPS, norm))

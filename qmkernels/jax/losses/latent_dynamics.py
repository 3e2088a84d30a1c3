"""QRL's loss of the latent dynamics."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
from jax.lax import stop_gradient

from ...arguments.latent_dynamics import LatentDynamicsSettings
from ..arrays import in_compute_dtype
from ..latent_dynamics import latent_dynamics as by_kernel
from . import checks
from .heads import fused_iqe


class LatentDynamics(NamedTuple):
    """``loss`` is the scalar to minimise; the others, 0-d and without gradient, are the mean distances in both
    directions."""

    loss: Array
    to_target: Array
    from_target: Array


def latent_dynamics(head: checks.Head, predicted: Array, target: Array, *, power: int = 2) -> LatentDynamics:
    r"""Compares predicted latents with encoded ones by the quasimetric, in both directions.

    .. math:: \tfrac12\, \overline{d(\hat z_i, z_i)^p + d(z_i, \hat z_i)^p}

    A head that is `qmkernels.jax.iqe`, or a ``partial`` of it, runs in one kernel.

    Args:
        head: the quasimetric, a function of x and y (see `qmkernels.jax.losses`).
        predicted, target: ``(..., B, D)``; float32, float64, bfloat16 or float16.
        power: p, 2 (QRL) or 1 (OGBench). Default 2.

    Returns:
        `LatentDynamics`, in float32 for half embeddings, else in their dtype; the mean distances are in the head's
        unit, environment steps in QRL.

    Gradients flow to predicted, target and what the head closes over. NaN in a row gives NaN in the loss and in the
    gradients of that row; infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that differ or are empty, another power.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 12.
    """
    checks.check_head("latent_dynamics", head)
    checks.check_rows("latent_dynamics", predicted=predicted, target=target)
    if power not in (1, 2):
        raise ValueError(f"latent_dynamics: power must be 1 or 2, got {power!r}.")
    fused = fused_iqe("latent_dynamics", head, predicted)
    if fused is not None:
        iqe, max_weight = fused
        rows = (in_compute_dtype(array).reshape(-1, array.shape[-1]) for array in (predicted, target))
        loss, stats = by_kernel(*rows, max_weight, settings=LatentDynamicsSettings(*iqe, power))
        return LatentDynamics(loss, *stop_gradient(stats))
    to_target, from_target = head(predicted, target), head(target, predicted)
    loss = (to_target**power + from_target**power).mean() / 2
    return LatentDynamics(loss, *map(stop_gradient, (to_target.mean(), from_target.mean())))

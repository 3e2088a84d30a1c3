"""METRA's representation loss with its dual variable."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from ...arguments.checks import check_choice
from ...arguments.metra import MetraSettings
from ..arrays import in_compute_dtype
from ..metra import metra as by_kernel
from . import checks

_NORMS = ("sum", "mean")


class Metra(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All but the reward are 0-d.

    reward       (phi' - phi) . skill per row, ``(..., B)``, which the policy maximises.
    constraint   mean of min(slack, 1 - squared distance).
    multiplier   exp(log_multiplier).
    distance     mean squared distance.
    """

    loss: Array
    reward: Array
    constraint: Array
    multiplier: Array
    distance: Array


def metra(
    phi: Array,
    phi_next: Array,
    skill: Array,
    log_multiplier: Array,
    *,
    slack: float = 1e-3,
    norm: str = "sum",
    head: checks.Head | None = None,
) -> Metra:
    r"""Learns a representation in which skills travel far by steps no longer than one.

    .. math:: -\overline{(\phi' - \phi)^\top z} - \lambda\, \bar c + \log \lambda \; \mathrm{stopgrad}\, \bar c,
              \qquad c = \min(\epsilon, 1 - \|\phi' - \phi\|^2)

    with lambda = exp(log_multiplier) fixed in the second term. Minimising also over ``log_multiplier`` raises lambda
    while the constraint is violated (c < 0). Lengths are in steps.

    Args:
        phi, phi_next: embeddings of a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16.
        skill: z, of the same shape and dtype: unit vectors, or zero-centred one-hot for discrete skills.
        log_multiplier: 0-d float array; starts at log(30) in the paper.
        slack: epsilon. Default 1e-3.
        norm: "sum" of the squares, as in the paper, or their "mean" over D, as in the public code. Default "sum".
        head: a quasimetric in place of the Euclidean norm: ``c = min(slack, 1 - d(phi, phi')^2)``, for steps that
            cannot be undone; ``norm`` is then ignored.

    Returns:
        `Metra`, in float32 for half embeddings, else in their dtype.

    Gradients flow to phi, phi_next, skill, log_multiplier and what the head closes over. Where a row's 1 - squared
    distance equals the slack, the gradient passes. NaN in a row gives NaN in the loss and in that row's gradients;
    infinities give what the formula gives.

    Raises:
        ValueError: shapes that differ or are empty, an unknown norm, a log_multiplier that is not 0-d.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Park et al. 2024, arXiv 2310.08887, equation 11 and its code; ``head`` is this package's own.
    """
    checks.check_rows("metra", phi=phi, phi_next=phi_next, skill=skill)
    checks.check_multiplier("metra", "log_multiplier", log_multiplier)
    check_choice("metra", "norm", norm, _NORMS)
    if head is not None:
        checks.check_head("metra", head)
    squared = None if head is None else jnp.square(head(phi, phi_next))
    phi, phi_next, skill = map(in_compute_dtype, (phi, phi_next, skill))
    log_multiplier = log_multiplier.astype(phi.dtype)
    if squared is None:
        rows = (array.reshape(-1, array.shape[-1]) for array in (phi, phi_next, skill))
        loss, reward, stats = by_kernel(*rows, log_multiplier, settings=MetraSettings(float(slack), norm))
        return Metra(loss, *map(stop_gradient, (reward.reshape(phi.shape[:-1]), *stats)))
    reward, room = ((phi_next - phi) * skill).sum(axis=-1), 1 - squared
    constraint = jnp.where(room > slack, slack, room).mean()
    multiplier = stop_gradient(jnp.exp(log_multiplier))
    loss = -reward.mean() - multiplier * constraint + log_multiplier * stop_gradient(constraint)
    return Metra(loss, *map(stop_gradient, (reward, constraint, multiplier, squared.mean())))

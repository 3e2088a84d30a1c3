"""QRL's critic loss: the Lagrangian of a constrained problem."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from ...arguments.checks import check_choice
from ...arguments.qrl_critic import QrlCriticSettings
from ..arrays import absent, in_compute_dtype
from ..qrl_critic import qrl_critic as by_kernel
from . import checks
from .heads import fused_iqe

_MULTIPLIERS = {"softplus": jax.nn.softplus, "exp": jnp.exp}
_THRESHOLDS = ("squared", "plain")


class QRLCritic(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All are 0-d.

    push        mean of the softplus that pushes goals away.
    violation   mean squared violation of the local constraint.
    multiplier  lambda.
    goal_distance, local_distance   mean d(x, goal) and mean d(x, y).
    """

    loss: Array
    push: Array
    violation: Array
    multiplier: Array
    goal_distance: Array
    local_distance: Array


def qrl_critic(
    head: checks.Head,
    x: Array,
    y: Array,
    raw_multiplier: Array,
    *,
    goal: Array | None = None,
    cost: Array | float = 1.0,
    epsilon: float = 0.25,
    softplus_beta: float = 0.1,
    softplus_offset: float = 15.0,
    multiplier: str = "softplus",
    threshold: str = "squared",
) -> QRLCritic:
    r"""Pushes goals as far away as transitions of known cost allow.

    .. math:: \overline{\mathrm{softplus}_\beta(o - d(x_i, g_i))}
              + \lambda \left(\overline{\mathrm{relu}(d(x_i, y_i) - c_i)^2} - \epsilon^2\right)

    with softplus_beta(u) = log(1 + exp(beta u)) / beta. Distances, costs, epsilon and o share a unit, environment steps
    if each step costs 1. A head that is `qmkernels.jax.iqe`, or a ``partial`` of it, runs in one kernel, unless there
    is a cost per row.

    Args:
        head: the quasimetric, a function of x and y (see `qmkernels.jax.losses`).
        x, y: a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16.
        raw_multiplier: 0-d float array, from which lambda is computed.
        goal: ``(..., B, D)``; None: ``y`` rolled by one row, the next state of another transition in the batch.
        cost: c, a number or one per row, ``(..., B)``. Default 1.
        epsilon: how far the constraint may be violated. Default 0.25.
        softplus_beta, softplus_offset: beta and o. Defaults 0.1 and 15, as published online; 0.01 and 500 for mazes.
        multiplier: lambda is the "softplus" of raw_multiplier, as published, or its "exp" (OGBench).
        threshold: compares the violation with epsilon "squared", as published, or with "plain" epsilon (OGBench, 0.05).

    Returns:
        `QRLCritic`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y, goal, cost and what the head closes over, which minimise the loss. That of
    ``raw_multiplier`` has the opposite sign, so that one optimizer step on everything also **maximises** over lambda.
    Rows with d(x, y) <= cost get none from the constraint.

    NaN in a row gives NaN in the loss and in the gradients of the rows compared with it. Infinities give what the head
    and the formula give, and so does a multiplier that is not finite.

    Raises:
        ValueError: shapes that do not fit or are empty, a batch of one without goal (it would be its own), a cost of
            another shape, a raw_multiplier that is not 0-d, unknown names.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 10 and its code; OGBench (arXiv 2410.20092): ``epsilon=0.05,
    softplus_beta=0.01, softplus_offset=500, multiplier="exp", threshold="plain"``.
    """
    checks.check_head("qrl_critic", head)
    if goal is not None:
        checks.check_rows("qrl_critic", x=x, y=y, goal=goal)
    else:
        checks.check_rows("qrl_critic", x=x, y=y)
        if x.shape[-2] == 1:
            raise ValueError("qrl_critic: a batch without goal must have at least two rows, got one; give goal.")
    checks.check_multiplier("qrl_critic", "raw_multiplier", raw_multiplier)
    check_choice("qrl_critic", "multiplier", multiplier, tuple(_MULTIPLIERS))
    check_choice("qrl_critic", "threshold", threshold, _THRESHOLDS)
    allowed = float(epsilon**2 if threshold == "squared" else epsilon)
    fused = fused_iqe("qrl_critic", head, x) if x.ndim == 2 and isinstance(cost, int | float) else None
    if fused is not None:
        iqe, max_weight = fused
        x, y, goal = (None if rows is None else in_compute_dtype(rows) for rows in (x, y, goal))
        settings = QrlCriticSettings(*iqe, float(softplus_beta), float(softplus_offset), multiplier, allowed)
        goal, raw = absent(x) if goal is None else goal, raw_multiplier.astype(x.dtype)
        loss, stats = by_kernel(x, y, goal, max_weight, raw, jnp.full((1,), cost, x.dtype), settings=settings)
        return QRLCritic(loss, *stop_gradient(stats[:5]))
    to_goal, local = head(x, jnp.roll(y, 1, axis=-2) if goal is None else goal), head(x, y)
    cost = checks.per_row("qrl_critic", "cost", cost, local)
    push = (jax.nn.softplus(softplus_beta * (softplus_offset - to_goal)) / softplus_beta).mean()
    excess = jnp.square(jax.nn.relu(local - cost)).mean() - allowed
    weight = _MULTIPLIERS[multiplier](raw_multiplier.astype(local.dtype))
    fixed = stop_gradient(weight)
    loss = push + fixed * excess - (weight - fixed) * stop_gradient(excess)
    diagnostics = push, excess + allowed, weight, to_goal.mean(), local.mean()
    return QRLCritic(loss, *map(stop_gradient, diagnostics))

"""TMD's critic loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from ...arguments.checks import check_choice
from ...arguments.pair_loss import PairLossSettings
from . import checks
from .linex import distances
from .pair_loss import pair_loss

# What the action invariance makes of d(psi, phi).
_INVARIANCES = {"distance": lambda distance: distance, "exp_squared": lambda distance: jnp.square(jnp.expm1(-distance))}


class TMDCritic(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All are 0-d.

    contrastive, action_invariance, temporal_invariance  the unweighted terms.
    positive, negative, accuracy                          as in `Contrastive`.
    difference                                            mean d(phi, psi_goal) - d(psi_next, psi_goal).
    """

    loss: Array
    contrastive: Array
    action_invariance: Array
    temporal_invariance: Array
    positive: Array
    negative: Array
    accuracy: Array
    difference: Array


def tmd_critic(
    head: checks.Head,
    phi: Array,
    psi: Array,
    psi_next: Array,
    psi_goal: Array,
    *,
    discount: float = 0.99,
    zeta: float = 0.05,
    clip: float = 3.0,
    diagonal_weight: float = 0.5,
    scale: float | None = None,
    invariance: str = "distance",
    offset: int = 0,
) -> TMDCritic:
    r"""Computes contrastive loss + action invariance + zeta * temporal invariance, visiting each pair only once.

    .. math:: \mathrm{contrastive}(\phi, \psi_g) + \overline{d(\psi_i, \phi_i)}
              + \zeta\, \mathrm{linex}(\phi, \psi_g, \psi')

    as `contrastive` (backward) and `linex` define them. MQE's action invariance is :math:`(e^{-d} - 1)^2` instead of d.

    Args:
        head: the quasimetric, a function of x and y (see `qmkernels.jax.losses`).
        phi: phi(s, a), ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an ensemble, over
            which the loss is averaged.
        psi, psi_next: psi(s) and psi(s'), of phi's shape and dtype.
        psi_goal: psi(g), ``(..., M, D)``; row ``i + offset`` is a future state of row i of phi.
        discount: gamma, in (0, 1]. Default 0.99.
        zeta: weight of the temporal invariance. Default 0.05.
        clip, diagonal_weight: of `linex`. Defaults 3 and 0.5.
        scale: of the logits; None: ``1 / sqrt(D)``.
        invariance: the action invariance, the mean "distance" (TMD) or "exp_squared", (exp(-d) - 1)^2 (MQE).
        offset: as for `contrastive`.

    Returns:
        `TMDCritic`, in float32 for half embeddings, else in their dtype.

    Gradients flow to phi, psi, psi_goal and what the head closes over; none flow to psi_next. NaN in a row of phi or
    psi_goal gives NaN in the loss and in the gradients of all rows paired with it; in psi or psi_next, only through its
    own term. Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, a discount outside
            (0, 1], an unknown invariance.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Myers et al. 2025, arXiv 2509.20478; defaults as published. MQE: arXiv 2511.07730. The published critic is
    an ensemble of two with ``head = partial(qmkernels.jax.mrn, preset="tmd")``.
    """
    checks.check_head("tmd_critic", head)
    checks.check_pairs("tmd_critic", offset, phi=phi, psi_goal=psi_goal)
    checks.check_rows("tmd_critic", phi=phi, psi=psi, psi_next=psi_next)
    if not 0 < discount <= 1:
        raise ValueError(f"tmd_critic: discount must be in (0, 1], got {discount}.")
    check_choice("tmd_critic", "invariance", invariance, tuple(_INVARIANCES))
    scale = 1.0 / math.sqrt(phi.shape[-1]) if scale is None else float(scale)
    psi_goal = psi_goal[..., offset : offset + phi.shape[-2], :]
    distance, after = distances(head, phi, psi_goal, psi_next)
    settings = PairLossSettings(
        "backward", scale, 0.0, float(zeta), float(clip), float(diagonal_weight), math.log(discount)
    )
    loss, stats = pair_loss(distance, after, settings)
    action = _INVARIANCES[invariance](head(psi, phi)).mean()
    return TMDCritic(
        loss + action, stats.contrastive, stop_gradient(action), stats.linex, stats.positive, stats.negative,
        stats.accuracy, stats.difference,
    )  # fmt: skip

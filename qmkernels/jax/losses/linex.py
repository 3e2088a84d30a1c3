"""The LINEX backup of distances along transitions, on which TMD and MQE are built."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
from jax.lax import stop_gradient

from ...arguments.pair_loss import PairLossSettings
from . import checks
from .heads import every_pair
from .pair_loss import divergence, matching, pair_loss


class Linex(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All are 0-d.

    everywhere, diagonal  mean divergence over all pairs and over matching pairs.
    difference            mean d(x, y) - d(next, y).
    """

    loss: Array
    everywhere: Array
    diagonal: Array
    difference: Array


def linex(
    head: checks.Head,
    x: Array,
    y: Array,
    next: Array,
    *,
    log_discount: Array | float,
    clip: float = 3.0,
    diagonal_weight: float = 0.5,
    offset: int = 0,
) -> Linex:
    r"""Backs up distances along transitions: moves d(x_i, y_j) towards d(next_i, y_j) minus the log of the discount.

    With :math:`\delta_{ij} = d(x_i, y_j) - \mathrm{stopgrad}\, d(\mathrm{next}_i, y_j)`,

    .. math:: D_{ij} = \gamma_i e^{\delta_{ij}} - d(x_i, y_j) \text{ where } \delta_{ij} \le t,
              \text{ else } \delta_{ij}

    which is smallest at :math:`\delta = -\log \gamma`. The loss is ``(1 - w)`` times its mean over all pairs plus ``w``
    times its mean over matching pairs. Distances are in units of log discount.

    Args:
        head: the quasimetric, a function of x and y (see `qmkernels.jax.losses`).
        x: states (and actions), ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an
            ensemble, over which the loss is averaged.
        y: goals, ``(..., M, D)``, of x's dtype; the match of ``x[i]`` is ``y[i + offset]``.
        next: where x leads, ``(..., N, D)``: the next states (TMD), or waypoints several steps ahead (MQE).
        log_discount: log gamma, a number, or one per row, ``(..., N)``, for waypoints several steps ahead (MQE).
        clip: t, beyond which the loss grows linearly. Default 3.
        diagonal_weight: w. Default 0.5.
        offset: as for `contrastive`.

    Returns:
        `Linex`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y, log_discount and what the head closes over, but not through d(next, y). NaN in a row gives
    NaN in the loss and in the gradients of all rows paired with it. Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, a log_discount of
            another shape.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478), whose code mixes in the diagonal; MQE (arXiv 2511.07730).
    """
    checks.check_head("linex", head)
    checks.check_pairs("linex", offset, x=x, y=y)
    checks.check_rows("linex", x=x, next=next)
    distance, after = distances(head, x, y, next)
    if isinstance(log_discount, int | float):
        settings = PairLossSettings(
            clip=float(clip), diagonal_weight=float(diagonal_weight), log_discount=float(log_discount), offset=offset
        )
        loss, stats = pair_loss(distance, after, settings)
        return Linex(loss, stats.everywhere, stats.diagonal, stats.difference)
    log_discount = checks.per_row("linex", "log_discount", log_discount, distance[..., 0])
    terms = divergence(distance, after, log_discount, clip)
    everywhere, diagonal = terms.mean(), matching(terms, offset).mean()
    loss = everywhere + diagonal_weight * (diagonal - everywhere)
    return Linex(loss, *map(stop_gradient, (everywhere, diagonal, (distance - after).mean())))


def distances(head: checks.Head, x: Array, y: Array, next: Array) -> tuple[Array, Array]:
    """Returns the distances from x to y, and those from next to y without gradients."""
    return every_pair(head, x, y), stop_gradient(every_pair(head, stop_gradient(next), stop_gradient(y)))

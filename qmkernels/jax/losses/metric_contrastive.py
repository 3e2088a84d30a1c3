"""MetricRL's representation loss."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from ...arguments.pair_loss import PairLossSettings
from ..mrn import euclidean_pairwise
from . import checks
from .heads import every_pair
from .pair_loss import pair_loss


class MetricContrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All are 0-d.

    steps, repulsion  the unweighted terms.
    length            mean length of a step.
    """

    loss: Array
    steps: Array
    repulsion: Array
    length: Array


def metric_contrastive(
    z: Array, z_next: Array, *, head: checks.Head | None = None, step: float = 1.0, weight: float = 1.0
) -> MetricContrastive:
    r"""Gives all steps one length and pushes all other pairs apart.

    .. math:: \overline{(d(z_i, z'_i) - s)^2} - w\, \overline{\log(d(z_i, z'_j) + 10^{-6})}^{\,i \ne j}

    Args:
        z, z_next: embeddings of a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16. Leading
            dimensions are an ensemble, over which the loss is averaged.
        head: d, a function of x and y (see `qmkernels.jax.losses`). None: the Euclidean distance, as published.
        step: s, the length of a step, in d's unit. Default 1.
        weight: w. Default 1.

    Returns:
        `MetricContrastive`, in float32 for half embeddings, else in their dtype. A batch of one has no second term.

    Gradients flow to z, z_next and what the head closes over. NaN in a row gives NaN in the loss and in the gradients
    of all rows paired with it; infinities give what the distance and the formula give.

    Raises:
        ValueError: shapes that differ or are empty.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Reichlin et al. 2024, arXiv 2402.10820. As in the paper, the first term averages over matching pairs; the
    public code averages it over all pairs.
    """
    checks.check_rows("metric_contrastive", z=z, z_next=z_next)
    if head is not None:
        checks.check_head("metric_contrastive", head)
    distance = euclidean_pairwise(z, z_next) if head is None else every_pair(head, z, z_next)
    settings = PairLossSettings("repulsion", step=float(step), repulsion_weight=float(weight))
    loss, stats = pair_loss(distance, None, settings)
    return MetricContrastive(loss, stats.steps, stats.repulsion, stats.length)

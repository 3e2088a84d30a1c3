"""The LINEX backup of distances along transitions, on which TMD and MQE are built."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.pair_loss import PairLossSettings
from ..definitions.pair_loss import divergence, matching
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles
from .contrastive import check_pairs


class Linex(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    everywhere, diagonal  mean divergence over all pairs and over matching pairs.
    difference            mean d(x, y) - d(next, y).
    """

    loss: Tensor
    everywhere: Tensor
    diagonal: Tensor
    difference: Tensor


def linex(
    head: checks.Head,
    x: Tensor,
    y: Tensor,
    next: Tensor,
    *,
    log_discount: Tensor | float,
    clip: float = 3.0,
    diagonal_weight: float = 0.5,
    offset: int = 0,
    streaming: bool | None = None,
) -> Linex:
    r"""Backs up distances along transitions: moves d(x_i, y_j) towards d(next_i, y_j) minus the log of the discount.

    With :math:`\delta_{ij} = d(x_i, y_j) - \mathrm{stopgrad}\, d(\mathrm{next}_i, y_j)`,

    .. math:: D_{ij} = \gamma_i e^{\delta_{ij}} - d(x_i, y_j) \text{ where } \delta_{ij} \le t,
              \text{ else } \delta_{ij}

    which is smallest at :math:`\delta = -\log \gamma`. The loss is ``(1 - w)`` times its mean over all pairs plus ``w``
    times its mean over matching pairs. Distances are in units of log discount.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x: states (and actions), ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an
            ensemble, over which the loss is averaged.
        y: goals, ``(..., M, D)``, of x's dtype and device; the match of ``x[i]`` is ``y[i + offset]``.
        next: where x leads, ``(..., N, D)``: the next states (TMD), or waypoints several steps ahead (MQE).
        log_discount: log gamma, a number, or one per row, ``(..., N)``, for waypoints several steps ahead (MQE).
        clip: t, beyond which the loss grows linearly. Default 3.
        diagonal_weight: w. Default 0.5.
        offset, streaming: as for `contrastive`.

    Returns:
        `Linex`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y, a log_discount tensor and the head's parameters, but not through d(next, y). NaN in a row
    gives NaN in the loss and in the gradients of all rows paired with it. Infinities give what the head and the formula
    give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, a log_discount of
            another shape, a head with a discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478), whose code mixes in the diagonal; MQE (arXiv 2511.07730).

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> x, next_x, goal = torch.zeros(1, 2), torch.ones(1, 2), torch.full((1, 2), 3.0)
        >>> qm.losses.linex(head, x, goal, next_x, log_discount=-1.0).loss
        tensor(-2.)
    """
    checks.check_head("linex", head)
    check_pairs("linex", offset, x=x, y=y)
    checks.check_rows("linex", x=x, next=next)
    log_discount = checks.per_row("linex", "log_discount", log_discount, x[..., 0])
    per_row = log_discount.expand(x.shape[:-1]) if isinstance(log_discount, Tensor) else None
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    if not streaming:
        distance, after = distances(head, x, y, next)
        shared = log_discount if per_row is None else 0.0
        settings = PairLossSettings(
            clip=float(clip), diagonal_weight=float(diagonal_weight), log_discount=shared, offset=offset
        )  # fmt: skip
        loss, stats = pair_loss(distance, after, per_row, settings)
        return Linex(loss, stats.everywhere, stats.diagonal, stats.difference)

    def part(begin, x, following, *rest):
        *discount, y = rest
        distance, after = distances(head, x, y, following)
        terms = divergence(distance, after, discount[0] if discount else log_discount, clip)
        difference = (distance - after).detach().mean(dim=-1)
        return terms.mean(dim=-1), matching(terms, begin + offset, -1), difference

    rows = (x, next) if per_row is None else (x, next, per_row.unsqueeze(-1))
    everywhere, diagonal, difference = tiles.by_tiles(part, rows, (y,), y.shape[-2], streaming)
    everywhere, diagonal = everywhere.mean(), diagonal.mean()
    loss = everywhere + diagonal_weight * (diagonal - everywhere)
    return Linex(loss, everywhere.detach(), diagonal.detach(), difference.mean())


def distances(head: checks.Head, x: Tensor, y: Tensor, next: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distances from x to y, and those from next to y without gradients."""
    distance = every_pair(head, x, y)
    with torch.no_grad():
        return distance, every_pair(head, next, y)

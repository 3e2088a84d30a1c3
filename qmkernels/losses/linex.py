"""The LINEX backup of distances along transitions, which TMD and MQE are built on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..definitions.pair_loss import PairLossSettings, divergence, matching
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles
from .contrastive import check_pairs


class Linex(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached: its mean over all and over matching pairs, and the
    mean difference of the two distances."""

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
    r"""Backs distances up along transitions: d(x_i, y_j) is to be d(next_i, y_j) less the log of the discount.

    With :math:`\delta_{ij} = d(x_i, y_j) - \mathrm{stopgrad}\, d(\mathrm{next}_i, y_j)`,

    .. math:: D_{ij} = \gamma_i e^{\delta_{ij}} - d(x_i, y_j) \text{ where } \delta_{ij} \le t,
              \text{ else } \delta_{ij}

    whose minimum is at :math:`\delta = -\log \gamma`, and the loss is ``(1 - w)`` times its mean over all pairs plus
    ``w`` times that over matching pairs.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x: states (and actions), ``(..., N, D)``; leading dimensions are an ensemble, over which the loss is averaged.
        y: goals, ``(..., M, D)``; the match of ``x[i]`` is ``y[i + offset]``.
        next: where x leads, ``(..., N, D)``: the next states (TMD) or waypoints some steps on (MQE).
        log_discount: log gamma, a number, or one a row ``(..., N)`` where waypoints are several steps away (MQE).
        clip: t, from which the loss grows no faster than linearly. Default 3.
        diagonal_weight: w. Default 0.5.
        offset, streaming: as for `contrastive`.

    Returns:
        `Linex`.

    Raises:
        ValueError: empty or mismatched batches, a log_discount of another length.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478), whose code mixes the diagonal in; MQE (arXiv 2511.07730).
    """
    checks.check_head("linex", head)
    check_pairs("linex", x, y, offset)
    checks.check_rows("linex", x=x, next=next)
    log_discount = checks.per_row("linex", "log_discount", log_discount, x[..., 0])
    per_row = log_discount.expand(x.shape[:-1]) if isinstance(log_discount, Tensor) else None
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    if not streaming:
        distance, after = distances(head, x, y, next)
        number = log_discount if per_row is None else 0.0
        settings = PairLossSettings(
            clip=float(clip), diagonal_weight=float(diagonal_weight), log_discount=number, offset=offset
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
    """Those from x to y, and those from next, held fixed."""
    distance = every_pair(head, x, y)
    with torch.no_grad():
        return distance, every_pair(head, next, y)

"""Losses over a matrix of distances on the compiled core. The contract: backends/reference/pair_loss.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.pair_loss import PairLossSettings, PairLossStats
from . import core


def pair_loss_forward(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = PairLossSettings(*settings)
    loss, stats = distance.new_empty(()), distance.new_empty(len(PairLossStats._fields))
    batch, rows, columns = distance.shape
    row_sums = distance.new_empty((batch, rows) if settings.kind in ("forward", "symmetric") else 0)
    column_sums = distance.new_empty((batch, rows) if settings.kind in ("backward", "symmetric") else 0)
    core.kernels.pair_loss_forward(
        distance=distance, after=after, log_discounts=log_discounts,
        loss=loss, stats=stats, row_sums=row_sums, column_sums=column_sums,
        batch=batch, rows=rows, columns=columns, settings=settings,
    )  # fmt: skip
    return loss, stats, row_sums, column_sums


def pair_loss_backward(
    grad_loss: Tensor,
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    row_sums: Tensor,
    column_sums: Tensor,
    *settings,
) -> Tensor:
    grad_distance = torch.empty_like(distance)
    batch, rows, columns = distance.shape
    core.kernels.pair_loss_backward(
        grad_loss=grad_loss, distance=distance, after=after, log_discounts=log_discounts,
        row_sums=row_sums, column_sums=column_sums, grad_distance=grad_distance,
        batch=batch, rows=rows, columns=columns, settings=PairLossSettings(*settings),
    )  # fmt: skip
    return grad_distance

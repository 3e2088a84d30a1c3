"""Losses over a matrix of distances on the compiled core. The contract: backends/reference/pair_loss.py."""

from __future__ import annotations

from torch import Tensor

from ...arguments.pair_loss import PairLossSettings
from ...definitions import pair_loss as definition
from . import core


@core.replayable
def pair_loss_forward(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, places: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, stats, row_sums, column_sums = definition.pair_loss_forward_outputs(
        distance, after, log_discounts, places, *settings
    )
    batch, rows, columns = distance.shape
    core.kernels.pair_loss_forward(
        distance=distance, after=after, log_discounts=log_discounts, places=places,
        loss=loss, stats=stats, row_sums=row_sums, column_sums=column_sums,
        batch=batch, rows=rows, columns=columns, settings=PairLossSettings(*settings),
    )  # fmt: skip
    return loss, stats, row_sums, column_sums


@core.replayable
def pair_loss_backward(
    grad_loss: Tensor,
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    places: Tensor | None,
    row_sums: Tensor,
    column_sums: Tensor,
    *settings,
) -> Tensor:
    grad_distance = definition.pair_loss_backward_outputs(grad_loss, distance)
    batch, rows, columns = distance.shape
    core.kernels.pair_loss_backward(
        grad_loss=grad_loss, distance=distance, after=after, log_discounts=log_discounts, places=places,
        row_sums=row_sums, column_sums=column_sums, grad_distance=grad_distance,
        batch=batch, rows=rows, columns=columns, settings=PairLossSettings(*settings),
    )  # fmt: skip
    return grad_distance

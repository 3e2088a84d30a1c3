"""Losses over a matrix of distances on the compiled core. The contract: backends/reference/pair_loss.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import pair_loss as definition
from ...definitions.pair_loss import KINDS
from . import core


def _workspace(distance: Tensor, kind: int, backward: bool) -> Tensor:
    size = core.call(
        "pair_loss_workspace", distance.device, distance.element_size(), *distance.shape, kind, backward
    )  # fmt: skip
    return core.scratch(size, distance.device)


def pair_loss_forward(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, kind: str, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, stats, row_sums, column_sums = definition.pair_loss_forward_outputs(
        distance, after, log_discounts, kind, *settings
    )
    place = KINDS.index(kind)
    core.launch(
        "pair_loss_forward", distance.device, distance.element_size(),
        distance, after, log_discounts, loss, stats, row_sums, column_sums, _workspace(distance, place, False),
        *distance.shape, place, *settings,
    )  # fmt: skip
    return loss, stats, row_sums, column_sums


def pair_loss_backward(
    grad_loss: Tensor,
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    row_sums: Tensor,
    column_sums: Tensor,
    kind: str,
    *settings,
) -> Tensor:
    grad_distance, place = definition.pair_loss_backward_outputs(grad_loss, distance), KINDS.index(kind)
    core.launch(
        "pair_loss_backward", distance.device, distance.element_size(),
        grad_loss, distance, after, log_discounts, row_sums, column_sums, grad_distance,
        _workspace(distance, place, True), *distance.shape, place, *settings,
    )  # fmt: skip
    return grad_distance

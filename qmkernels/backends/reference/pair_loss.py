"""Losses over a matrix of distances on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. ``*settings`` are the fields of
``definitions.pair_loss.PairLossSettings`` in order. ``distance`` is (B, N, M), with N <= M and no size 0; ``after``,
for the LINEX term, has its shape; ``log_discounts``, if they differ by row, are (B, N). ``places``, int32 (B, M), at
least 0, say which pairs the softmaxes leave out (``definitions.pair_loss.left_out``): not with ``after``, nor for kinds
without softmaxes. A tensor that is not needed is None.

``loss``         0-d.
``stats``        (13,): the fields of ``arguments.pair_loss.PairLossStats``.
``row_sums``     (2, B, N): each row's largest logit, and the log of the sum of exponentials relative to it; for
                 "forward" and "symmetric".
``column_sums``  (2, B, N): the same for the column of each row's match; for "backward" and "symmetric".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments.pair_loss import PairLossSettings
from ...definitions import pair_loss as definition


def pair_loss_forward(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, places: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ``loss, stats, row_sums, column_sums``."""
    loss, stats, *sums = definition.pair_loss(distance, after, log_discounts, PairLossSettings(*settings), places)
    return loss, torch.stack(stats), *sums


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
    """Returns ``grad_distance`` (B, N, M)."""
    return definition.gradient(
        grad_loss, distance, after, log_discounts, row_sums, column_sums, PairLossSettings(*settings), places
    )

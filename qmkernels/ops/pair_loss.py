"""Losses over a matrix of distances as one op, from distances to loss; the pairwise losses call it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments.pair_loss import PairLossSettings, PairLossStats
from ..backends import dispatch
from ..definitions import pair_loss as definition
from ..definitions.dtypes import in_compute_dtype
from .autograd import Op
from .registration import Kernel, schema_of

_SETTINGS = f"{schema_of(PairLossSettings)}, str backend"


def _composed(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, places: Tensor | None, *settings
) -> tuple[Tensor, Tensor]:
    loss, stats, *_ = definition.pair_loss(distance, after, log_discounts, PairLossSettings(*settings), places)
    return loss, torch.stack(stats)


def _backward(run, grad_loss, saved, settings, needs):
    """Returns the gradient of the distances; there are no others."""
    return run(grad_loss, *saved, *settings), None, None, None


_pair_loss = Op(
    "PairLoss",
    Kernel(
        "pair_loss",
        f"pair_loss_forward(Tensor distance, Tensor? after, Tensor? log_discounts, Tensor? places, {_SETTINGS})"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        definition.pair_loss_forward_outputs,
    ),
    Kernel(
        "pair_loss",
        "pair_loss_backward(Tensor grad_loss, Tensor distance, Tensor? after, Tensor? log_discounts, Tensor? places,"
        f" Tensor row_sums, Tensor column_sums, {_SETTINGS}) -> Tensor",
        definition.pair_loss_backward_outputs,
    ),
    plain=_composed,
    saved=lambda tensors, outputs: (*tensors, *outputs[2:]),
    backward=_backward,
    num_results=2,
    fixed=(1, 2),
)


def pair_loss(
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    settings: PairLossSettings,
    places: Tensor | None = None,
) -> tuple[Tensor, PairLossStats]:
    """Returns the loss and its detached diagnostics, given distances (..., N, M).

    ``after``, of distance's shape, gets no gradient; ``log_discounts`` is (..., N), ``places`` int32 (..., M). The
    kernels have no derivative by ``log_discounts``: where they require one, the loss is composed of torch ops.
    """
    if log_discounts is not None and log_discounts.requires_grad:
        return definition.pair_loss(distance, after, log_discounts, settings, places)[:2]
    distance = in_compute_dtype(distance)
    shape = distance.shape
    if len(shape) != 3:
        distance = distance.reshape(-1, *shape[-2:])
    if after is not None:
        after = after.to(distance.dtype).reshape(distance.shape)
    if log_discounts is not None:
        log_discounts = log_discounts.to(distance.dtype).reshape(distance.shape[:2])
    if places is not None:
        places = places.reshape(distance.shape[0], -1)
    loss, stats = _pair_loss((distance, after, log_discounts, places), settings, dispatch.requested(None))
    return loss, PairLossStats(*stats.unbind())

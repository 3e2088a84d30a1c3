"""Losses over a matrix of distances as one op: distances to loss, and back. The pairwise losses call it."""

from __future__ import annotations

from torch import Tensor

from ..backends import dispatch
from ..definitions import pair_loss as definition
from ..definitions.pair_loss import PairLossSettings, PairLossStats
from .arguments import in_compute_dtype
from .kernel_function import on_backend
from .loss_function import loss_function
from .registration import register
from .torch_modes import in_function_transform

_SETTINGS = (
    "str kind, float scale, float logsumexp_weight, float linex_weight, float clip, float diagonal_weight, "
    "float log_discount, float step, float repulsion_weight, int offset"
)


def _fake_forward(distance, after, log_discounts, kind, *rest):
    rows = distance.shape[:2]
    return (
        distance.new_empty(()),
        distance.new_empty(len(PairLossStats._fields)),
        distance.new_empty(rows if kind in ("forward", "symmetric") else 0),
        distance.new_empty(rows if kind in ("backward", "symmetric") else 0),
    )


def _fake_backward(grad_loss, distance, *rest):
    return distance.new_empty(distance.shape)


pair_loss_forward = register(
    f"pair_loss_forward(Tensor distance, Tensor? after, Tensor? log_discounts, {_SETTINGS}, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("pair_loss", "pair_loss_forward"),
    _fake_forward,
)
pair_loss_backward = register(
    "pair_loss_backward(Tensor grad_loss, Tensor distance, Tensor? after, Tensor? log_discounts, Tensor row_sums,"
    f" Tensor column_sums, {_SETTINGS}, str backend) -> Tensor",
    on_backend("pair_loss", "pair_loss_backward"),
    _fake_backward,
)


def _gradients(grad_loss, tensors, kept, settings, needs):
    """Of the distances alone."""
    return pair_loss_backward(grad_loss, *tensors, *kept, *settings), None, None


def _composed(distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, *settings) -> Tensor:
    return definition.pair_loss(distance, after, log_discounts, PairLossSettings(*settings))[0]


_pair_loss = loss_function("PairLoss", pair_loss_forward, _gradients, _composed, num_tensors=3, kept_from=2)


def pair_loss(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, settings: PairLossSettings
) -> tuple[Tensor, PairLossStats]:
    """The loss and its detached diagnostics from distances (..., N, M).

    ``after``, of distance's shape, is held fixed; ``log_discounts`` is (..., N). Where a kernel cannot give the
    derivative, within torch.func transforms and by ``log_discounts``, the loss is composed of torch ops.
    """
    if in_function_transform() or (log_discounts is not None and log_discounts.requires_grad):
        return definition.pair_loss(distance, after, log_discounts, settings)[:2]
    distance = in_compute_dtype(distance)
    shape = distance.shape
    if len(shape) != 3:
        distance = distance.reshape(-1, *shape[-2:])
    if after is not None:
        after = after.to(distance.dtype).reshape(distance.shape)
    if log_discounts is not None:
        log_discounts = log_discounts.to(distance.dtype).reshape(distance.shape[:2])
    loss, stats, *_ = _pair_loss(distance, after, log_discounts, *settings, dispatch.requested(None))
    return loss, PairLossStats(*stats.unbind())

"""Losses over a matrix of distances as one op: distances to loss, and back. The pairwise losses call it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import table
from ..reference import pair_loss as definition
from ..reference.pair_loss import PairForm, PairStats
from .arguments import in_compute_dtype
from .kernel_function import on_backend
from .registration import register
from .transforms import apply, can_call_op_directly, in_function_transform, records_derivative

_FORM = (
    "str kind, float scale, float logsumexp_weight, float linex_weight, float clip, float diagonal_weight, "
    "float log_discount, float step, float repulsion_weight, int offset"
)


def _fake_forward(distance, after, log_discounts, kind, *rest):
    rows = distance.shape[:2]
    return (
        distance.new_empty(()),
        distance.new_empty(len(PairStats._fields)),
        distance.new_empty(rows if kind in ("forward", "symmetric") else 0),
        distance.new_empty(rows if kind in ("backward", "symmetric") else 0),
    )


def _fake_backward(grad_loss, distance, *rest):
    return distance.new_empty(distance.shape)


pair_loss_forward = register(
    f"pair_loss_forward(Tensor distance, Tensor? after, Tensor? log_discounts, {_FORM}, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("pair_loss", "pair_loss_forward"),
    _fake_forward,
)
pair_loss_backward = register(
    "pair_loss_backward(Tensor grad_loss, Tensor distance, Tensor? after, Tensor? log_discounts, Tensor row_sums,"
    f" Tensor column_sums, {_FORM}, str backend) -> Tensor",
    on_backend("pair_loss", "pair_loss_backward"),
    _fake_backward,
)


class PairLoss(Function):
    """(distance, after, log_discounts, *form, backend) to (loss, stats, ...); by distance alone."""

    @staticmethod
    def forward(*arguments):
        return pair_loss_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        distance, after, log_discounts, *ctx.settings = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(distance, after, log_discounts, *output[2:])

    @staticmethod
    def backward(ctx, grad_loss, *_):
        rest = (None,) * (2 + len(ctx.settings))
        if grad_loss is None:
            return None, *rest
        distance, after, log_discounts, *sums = ctx.saved_tensors
        if can_call_op_directly():
            return pair_loss_backward(grad_loss, distance, after, log_discounts, *sums, *ctx.settings), *rest
        loss, *_ = definition.pair_loss(distance, after, log_discounts, PairForm(*ctx.settings[:-1]))
        return *torch.autograd.grad(loss, distance, grad_loss, create_graph=True), *rest


def pair_loss(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, form: PairForm
) -> tuple[Tensor, PairStats]:
    """The loss and its detached diagnostics from distances (..., N, M).

    ``after``, of distance's shape, is held fixed; ``log_discounts`` is (..., N). Where a kernel cannot give the
    derivative, within torch.func transforms and by ``log_discounts``, the loss is composed of torch ops.
    """
    if in_function_transform() or (log_discounts is not None and log_discounts.requires_grad):
        return definition.pair_loss(distance, after, log_discounts, form)[:2]
    distance = in_compute_dtype(distance)
    shape = distance.shape
    if len(shape) != 3:
        distance = distance.reshape(-1, *shape[-2:])
    if after is not None:
        after = after.to(distance.dtype).reshape(distance.shape)
    if log_discounts is not None:
        log_discounts = log_discounts.to(distance.dtype).reshape(distance.shape[:2])
    arguments = (distance, after, log_discounts, *form, table.requested(None))
    loss, stats, *_ = apply(PairLoss, *arguments) if records_derivative(distance) else pair_loss_forward(*arguments)
    return loss, PairStats(*stats.unbind())

"""iQRL's temporal consistency as one op: latents to loss, and back. `losses.temporal_consistency` calls it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..reference import temporal_consistency as definition
from .kernel_function import on_backend
from .registration import register
from .transforms import apply, can_call_op_directly, records_derivative


def _fake_forward(predicted, target, mask, discount, backend):
    steps, batch, _ = predicted.shape
    return predicted.new_empty(()), predicted.new_empty(steps), predicted.new_empty(2, steps, batch)


def _fake_backward(grad_loss, slopes, predicted, target, backend):
    return predicted.new_empty(predicted.shape)


temporal_consistency_forward = register(
    "temporal_consistency_forward(Tensor predicted, Tensor target, Tensor? mask, float discount, str backend)"
    " -> (Tensor, Tensor, Tensor)",
    on_backend("temporal_consistency", "temporal_consistency_forward"),
    _fake_forward,
)
temporal_consistency_backward = register(
    "temporal_consistency_backward(Tensor grad_loss, Tensor slopes, Tensor predicted, Tensor target, str backend)"
    " -> Tensor",
    on_backend("temporal_consistency", "temporal_consistency_backward"),
    _fake_backward,
)


def composed(predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float) -> tuple[Tensor, Tensor]:
    """Loss and similarity in plain PyTorch, for what a kernel does not do: derivatives of derivatives, or by the mask,
    and torch.func."""
    cosine = definition.cosines(predicted, target)
    return definition.loss_of(cosine, mask, discount), cosine.detach().mean(dim=-1)


class TemporalConsistency(Function):
    """(predicted, target, mask, discount, backend) to (loss, similarity); predicted alone has a gradient."""

    @staticmethod
    def forward(*arguments):
        return temporal_consistency_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        predicted, target, mask, ctx.discount, ctx.backend = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(predicted, target, mask, output[2])

    @staticmethod
    def backward(ctx, grad_loss, *_):
        if grad_loss is None:
            return (None,) * 5
        predicted, target, mask, slopes = ctx.saved_tensors
        if can_call_op_directly():
            grad = temporal_consistency_backward(grad_loss, slopes, predicted, target, ctx.backend)
        else:
            loss, _ = composed(predicted, target, mask, ctx.discount)
            (grad,) = torch.autograd.grad(loss, predicted, grad_loss, create_graph=True)
        return grad, None, None, None, None


def temporal_consistency(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Loss and similarity of checked arguments in the dtype of computation; target and mask require no gradient."""
    arguments = (predicted, target, mask, discount, backend)
    if records_derivative(predicted):
        return apply(TemporalConsistency, *arguments)[:2]
    return temporal_consistency_forward(*arguments)[:2]

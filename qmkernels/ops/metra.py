"""METRA's loss as one op: embeddings to loss, and back. `losses.metra` calls it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..reference import metra as definition
from ..reference.metra import MetraForm
from .kernel_function import on_backend
from .registration import register
from .transforms import apply, can_call_op_directly, records_derivative


def _fake_forward(phi, phi_next, skill, log_multiplier, slack, norm, backend):
    rows = phi.shape[:-1]
    return phi.new_empty(()), phi.new_empty(rows), phi.new_empty(3), phi.new_empty(rows)


def _fake_backward(grad_loss, phi, phi_next, skill, stats, slopes, needs_skill, backend):
    shapes = (phi.shape, phi.shape, phi.shape if needs_skill else (0,), ())
    return tuple(phi.new_empty(shape) for shape in shapes)


metra_forward = register(
    "metra_forward(Tensor phi, Tensor phi_next, Tensor skill, Tensor log_multiplier, float slack, str norm,"
    " str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("metra", "metra_forward"),
    _fake_forward,
)
metra_backward = register(
    "metra_backward(Tensor grad_loss, Tensor phi, Tensor phi_next, Tensor skill, Tensor stats, Tensor slopes,"
    " bool needs_skill, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("metra", "metra_backward"),
    _fake_backward,
)


def composed(phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, form: MetraForm) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    step = phi_next - phi
    squared = definition.squared_distance(step, form.norm)
    terms = definition.terms(step, skill, squared, log_multiplier, form.slack)
    return definition.loss_of(*terms, log_multiplier)


class Metra(Function):
    """(phi, phi_next, skill, log_multiplier, *form, backend) to (loss, reward, stats, slopes); the loss alone has a
    gradient."""

    @staticmethod
    def forward(*arguments):
        return metra_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        phi, phi_next, skill, log_multiplier, *form, ctx.backend = inputs
        ctx.form = MetraForm(*form)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, phi_next, skill, log_multiplier, *output[2:])

    @staticmethod
    def backward(ctx, grad_loss, *_):
        needs, rest = ctx.needs_input_grad[:4], (None,) * 3
        if grad_loss is None:
            return (None,) * 7
        *inputs, stats, slopes = ctx.saved_tensors
        if can_call_op_directly():
            grads = metra_backward(grad_loss, *inputs[:3], stats, slopes, needs[2], ctx.backend)
            return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *rest
        wanted = [tensor for tensor, need in zip(inputs, needs, strict=True) if need]
        found = iter(torch.autograd.grad(composed(*inputs, ctx.form), wanted, grad_loss, create_graph=True))
        return *(next(found) if need else None for need in needs), *rest


def metra(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, form: MetraForm, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, reward and stats (backends/reference/metra.py) of checked arguments in the dtype of computation."""
    arguments = (phi, phi_next, skill, log_multiplier, *form, backend)
    recorded = records_derivative(phi, phi_next, skill, log_multiplier)
    loss, reward, stats, _ = apply(Metra, *arguments) if recorded else metra_forward(*arguments)
    return loss, reward, stats

"""QRL's latent dynamics with an IQE head as one op: embeddings to loss, and back. `losses.latent_dynamics` calls it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..reference import latent_dynamics as definition
from ..reference.latent_dynamics import LatentDynamicsForm
from .kernel_function import on_backend
from .registration import register
from .transforms import apply, can_call_op_directly, records_derivative


def _fake_forward(predicted, target, max_weight, dim_per_component, reduction, power, backend):
    rows, num_components = predicted.shape[0], predicted.shape[1] // dim_per_component
    return (
        predicted.new_empty(()),
        predicted.new_empty(2),
        predicted.new_empty(2, rows),
        predicted.new_empty((2, rows, num_components, (2 * dim_per_component + 7) // 8), dtype=torch.uint8),
        predicted.new_empty((2, rows) if reduction in ("max", "maxmean") else 0, dtype=torch.int32),
        predicted.new_empty((2, rows) if reduction == "maxmean" else 0),
    )


def _fake_backward(grad_loss, slopes, ends, largest, spread, max_weight, dim_per_component, reduction, backend):
    shape = (slopes.shape[1], ends.shape[2] * dim_per_component)
    return slopes.new_empty(shape), slopes.new_empty(shape), slopes.new_empty(0 if max_weight is None else ())


latent_dynamics_forward = register(
    "latent_dynamics_forward(Tensor predicted, Tensor target, Tensor? max_weight, int dim_per_component,"
    " str reduction, int power, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("latent_dynamics", "latent_dynamics_forward"),
    _fake_forward,
)
latent_dynamics_backward = register(
    "latent_dynamics_backward(Tensor grad_loss, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
    " Tensor? max_weight, int dim_per_component, str reduction, str backend) -> (Tensor, Tensor, Tensor)",
    on_backend("latent_dynamics", "latent_dynamics_backward"),
    _fake_backward,
)


def composed(predicted: Tensor, target: Tensor, max_weight: Tensor | None, form: LatentDynamicsForm) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    return definition.loss_of(definition.distances(predicted, target, max_weight, form), form.power)


class LatentDynamics(Function):
    """(predicted, target, max_weight, *form, backend) to (loss, stats)."""

    @staticmethod
    def forward(*arguments):
        return latent_dynamics_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        predicted, target, max_weight, *form, ctx.backend = inputs
        ctx.form = LatentDynamicsForm(*form)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(predicted, target, max_weight, *output[2:])

    @staticmethod
    def backward(ctx, grad_loss, *_):
        needs, rest = ctx.needs_input_grad[:3], (None,) * 4
        if grad_loss is None:
            return (None,) * 7
        *inputs, slopes, ends, largest, spread = ctx.saved_tensors
        form = ctx.form
        if can_call_op_directly():
            grads = latent_dynamics_backward(
                grad_loss, slopes, ends, largest, spread, inputs[2], form.dim_per_component, form.reduction, ctx.backend
            )
            return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *rest
        wanted = [tensor for tensor, need in zip(inputs, needs, strict=True) if need]
        found = iter(torch.autograd.grad(composed(*inputs, form), wanted, grad_loss, create_graph=True))
        return *(next(found) if need else None for need in needs), *rest


def latent_dynamics(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, form: LatentDynamicsForm, backend: str
) -> tuple[Tensor, Tensor]:
    """Loss and stats (backends/reference/latent_dynamics.py) of checked arguments in the dtype of computation."""
    arguments = (predicted, target, max_weight, *form, backend)
    recorded = records_derivative(predicted, target, max_weight)
    loss, stats, *_ = apply(LatentDynamics, *arguments) if recorded else latent_dynamics_forward(*arguments)
    return loss, stats

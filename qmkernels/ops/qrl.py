"""QRL's critic with an IQE head as one op: embeddings to loss, and back. `losses.qrl_critic` calls it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..reference import qrl as definition
from ..reference.qrl import QrlForm
from .kernel_function import on_backend
from .registration import register
from .transforms import apply, can_call_op_directly, records_derivative

_FORM = (
    "int dim_per_component, str reduction, float softplus_beta, float softplus_offset, str multiplier, float threshold"
)


def _fake_forward(x, y, goal, max_weight, raw, cost, dim_per_component, reduction, *rest):
    rows, num_components = x.shape[0], x.shape[1] // dim_per_component
    return (
        x.new_empty(()),
        x.new_empty(6),
        x.new_empty(2, rows),
        x.new_empty((2, rows, num_components, (2 * dim_per_component + 7) // 8), dtype=torch.uint8),
        x.new_empty((2, rows) if reduction in ("max", "maxmean") else 0, dtype=torch.int32),
        x.new_empty((2, rows) if reduction == "maxmean" else 0),
    )


def _fake_backward(
    grad_loss, stats, slopes, ends, largest, spread, max_weight, has_goal, dim_per_component, reduction, backend
):
    shape = (slopes.shape[1], ends.shape[2] * dim_per_component)
    return (
        slopes.new_empty(shape),
        slopes.new_empty(shape),
        slopes.new_empty(shape if has_goal else 0),
        slopes.new_empty(0 if max_weight is None else ()),
        slopes.new_empty(()),
    )


qrl_forward = register(
    f"qrl_forward(Tensor x, Tensor y, Tensor? goal, Tensor? max_weight, Tensor raw, Tensor cost, {_FORM}, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("qrl", "qrl_forward"),
    _fake_forward,
)
qrl_backward = register(
    "qrl_backward(Tensor grad_loss, Tensor stats, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
    " Tensor? max_weight, bool has_goal, int dim_per_component, str reduction, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("qrl", "qrl_backward"),
    _fake_backward,
)


def composed(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, form: QrlForm
) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    to_goal, local = definition.distances(x, y, goal, max_weight, form)
    return definition.loss_of(*definition.terms(to_goal, local, raw, cost, form), form.threshold)


class Qrl(Function):
    """(x, y, goal, max_weight, raw, cost, *form, backend) to (loss, stats); cost has no gradient."""

    @staticmethod
    def forward(*arguments):
        return qrl_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, goal, max_weight, raw, cost, *form, ctx.backend = inputs
        ctx.form, ctx.has_goal = QrlForm(*form), goal is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, goal, max_weight, raw, cost, *output[1:])

    @staticmethod
    def backward(ctx, grad_loss, *_):
        needs, rest = ctx.needs_input_grad[:5], (None,) * 8
        if grad_loss is None:
            return (None,) * 13
        *inputs, stats, slopes, ends, largest, spread = ctx.saved_tensors
        if can_call_op_directly():
            grads = qrl_backward(
                grad_loss, stats, slopes, ends, largest, spread, inputs[3], ctx.has_goal,
                ctx.form.dim_per_component, ctx.form.reduction, ctx.backend,
            )  # fmt: skip
            return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *rest
        wanted = [tensor for tensor, need in zip(inputs[:5], needs, strict=True) if need]
        found = iter(torch.autograd.grad(composed(*inputs, ctx.form), wanted, grad_loss, create_graph=True))
        return *(next(found) if need else None for need in needs), *rest


def qrl(
    x: Tensor,
    y: Tensor,
    goal: Tensor | None,
    max_weight: Tensor | None,
    raw: Tensor,
    cost: Tensor,
    form: QrlForm,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Loss and stats (backends/reference/qrl.py) of checked arguments in the dtype of computation."""
    arguments = (x, y, goal, max_weight, raw, cost, *form, backend)
    recorded = records_derivative(x, y, goal, max_weight, raw)
    loss, stats, *_ = apply(Qrl, *arguments) if recorded else qrl_forward(*arguments)
    return loss, stats

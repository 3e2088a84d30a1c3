"""QRL's critic with an IQE head as one op: embeddings to loss, and back. `losses.qrl_critic` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..definitions import qrl_critic as definition
from ..definitions.qrl_critic import QrlCriticSettings
from .kernel_function import on_backend
from .loss_function import loss_function
from .registration import register

_SETTINGS = (
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


qrl_critic_forward = register(
    "qrl_critic_forward(Tensor x, Tensor y, Tensor? goal, Tensor? max_weight, Tensor raw, Tensor cost,"
    f" {_SETTINGS}, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("qrl_critic", "qrl_critic_forward"),
    _fake_forward,
)
qrl_critic_backward = register(
    "qrl_critic_backward(Tensor grad_loss, Tensor stats, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
    " Tensor? max_weight, bool has_goal, int dim_per_component, str reduction, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("qrl_critic", "qrl_critic_backward"),
    _fake_backward,
)


def composed(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    settings = QrlCriticSettings(*settings)
    to_goal, local = definition.distances(x, y, goal, max_weight, settings)
    return definition.loss_of(*definition.terms(to_goal, local, raw, cost, settings), settings.threshold)


def _gradients(grad_loss, tensors, kept, settings, needs):
    """Of all but cost, which has none."""
    _, _, goal, max_weight, _, _ = tensors
    size, reduction, *_, backend = settings
    return *qrl_critic_backward(grad_loss, *kept, max_weight, goal is not None, size, reduction, backend), None


_qrl = loss_function("Qrl", qrl_critic_forward, _gradients, composed, num_tensors=6, kept_from=1)


def qrl_critic(
    x: Tensor,
    y: Tensor,
    goal: Tensor | None,
    max_weight: Tensor | None,
    raw: Tensor,
    cost: Tensor,
    settings: QrlCriticSettings,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Loss and stats (backends/reference/qrl_critic.py) of checked arguments in the dtype of computation."""
    loss, stats, *_ = _qrl(x, y, goal, max_weight, raw, cost, *settings, backend)
    return loss, stats

"""QRL's critic with an IQE head on the compiled core, CPU and CUDA. The contract: backends/reference/qrl_critic.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.qrl_critic import QrlCriticSettings
from . import core

_WITH_LARGEST = ("max", "maxmean")


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = QrlCriticSettings(*settings)
    rows, size = x.shape[0], settings.dim_per_component
    num_components = x.shape[1] // size
    loss, stats, slopes = x.new_empty(()), x.new_empty(6), x.new_empty(2, rows)
    ends = x.new_empty((2, rows, num_components, (2 * size + 7) // 8), dtype=torch.uint8)
    largest = x.new_empty((2, rows) if settings.reduction in _WITH_LARGEST else 0, dtype=torch.int32)
    spread = x.new_empty((2, rows) if settings.reduction == "maxmean" else 0)
    core.kernels.qrl_critic_forward(
        x=x, y=y, goal=goal, max_weight=max_weight, raw=raw, cost=cost, num_costs=cost.numel(),
        loss=loss, stats=stats, slopes=slopes, ends=ends, largest=largest, spread=spread,
        rows=rows, num_components=num_components, settings=settings,
    )  # fmt: skip
    return loss, stats, slopes, ends, largest, spread


def qrl_critic_backward(
    grad_loss: Tensor,
    stats: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    has_goal: bool,
    dim_per_component: int,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = slopes.shape[1], ends.shape[2]
    grad_x = slopes.new_empty(rows, num_components * dim_per_component)
    grad_y = torch.empty_like(grad_x)
    grad_goal = torch.empty_like(grad_x) if has_goal else slopes.new_empty(0)
    grad_max_weight = slopes.new_empty(0 if max_weight is None else ())
    core.kernels.qrl_critic_backward(
        grad_loss=grad_loss, slopes=slopes, ends=ends, largest=largest, spread=spread, max_weight=max_weight,
        grad_x=grad_x, grad_y=grad_y, grad_goal=grad_goal, grad_max_weight=grad_max_weight,
        rows=rows, num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grad_x, grad_y, grad_goal, grad_max_weight, grad_loss * stats[5]

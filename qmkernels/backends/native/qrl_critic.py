"""QRL's critic with an IQE head on the compiled core, CPU and CUDA. The contract: backends/reference/qrl_critic.py."""

from __future__ import annotations

from torch import Tensor

from ...arguments.qrl_critic import QrlCriticSettings
from ...definitions import qrl_critic as definition
from . import core


@core.replayable
def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, stats, slopes, ends, largest, spread = definition.qrl_critic_forward_outputs(
        x, y, goal, max_weight, raw, cost, *settings
    )
    settings = QrlCriticSettings(*settings)
    core.kernels.qrl_critic_forward(
        x=x, y=y, goal=goal, max_weight=max_weight, raw=raw, cost=cost, num_costs=cost.numel(),
        loss=loss, stats=stats, slopes=slopes, ends=ends, largest=largest, spread=spread,
        rows=x.shape[0], num_components=x.shape[1] // settings.dim_per_component, settings=settings,
    )  # fmt: skip
    return loss, stats, slopes, ends, largest, spread


@core.replayable
def qrl_critic_backward(
    grad_loss: Tensor,
    stats: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    has_goal: bool,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = slopes.shape[1], ends.shape[2]
    grads = definition.qrl_critic_backward_outputs(
        grad_loss, stats, slopes, ends, largest, spread, max_weight, like, has_goal, dim_per_component, reduction,
        weight_link,
    )  # fmt: skip
    grad_x, grad_y, grad_goal, grad_max_weight, grad_raw = grads
    core.kernels.qrl_critic_backward(
        grad_loss=grad_loss, stats=stats, slopes=slopes, ends=ends, largest=largest, spread=spread,
        max_weight=max_weight, grad_x=grad_x, grad_y=grad_y, grad_goal=grad_goal, grad_max_weight=grad_max_weight,
        grad_raw=grad_raw,
        rows=rows, num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        weight_link=weight_link,
    )  # fmt: skip
    return grads

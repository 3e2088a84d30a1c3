"""QRL's critic with an IQE head on the compiled core, CPU and CUDA. The contract: backends/reference/qrl_critic.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import qrl_critic as definition
from ...definitions.iqe import REDUCTIONS
from ...definitions.qrl_critic import MULTIPLIERS, QrlCriticSettings
from . import core


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = QrlCriticSettings(*settings)
    rows, size = x.shape[0], settings.dim_per_component
    num_components = x.shape[1] // size
    loss, stats, slopes, ends, largest, spread = definition.qrl_critic_forward_outputs(
        x, y, goal, max_weight, raw, cost, *settings
    )
    scratch = core.scratch(4 * rows * x.element_size(), x.device)
    core.launch(
        "qrl_critic_forward", x.device, x.element_size(),
        x, y, goal, max_weight, raw, cost, cost.numel(), loss, stats, slopes, ends, largest, spread, scratch,
        rows, num_components, size, REDUCTIONS.index(settings.reduction), settings.softplus_beta,
        settings.softplus_offset, MULTIPLIERS.index(settings.multiplier), settings.threshold,
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
    grad_x, grad_y, grad_goal, grad_max_weight, _ = definition.qrl_critic_backward_outputs(
        grad_loss, stats, slopes, ends, largest, spread, max_weight, has_goal, dim_per_component, reduction
    )
    core.launch(
        "qrl_critic_backward", slopes.device, slopes.element_size(),
        grad_loss, slopes, ends, largest, spread, max_weight, grad_x, grad_y, grad_goal, grad_max_weight,
        rows, num_components, dim_per_component, REDUCTIONS.index(reduction),
    )  # fmt: skip
    return grad_x, grad_y, grad_goal, grad_max_weight, grad_loss * stats[5]

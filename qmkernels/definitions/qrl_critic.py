"""QRL's critic loss with an IQE head, in plain PyTorch: the definition of the op ``qrl_critic``.

Wang et al. 2023, "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning" (arXiv 2304.01203). The
distances are those of definitions/iqe.py; losses/qrl_critic.py has the formula of the loss.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments.qrl_critic import QrlCriticSettings
from .iqe import iqe, kept_of_reduction, weights_of_rows
from .shapes import empty

MULTIPLIERS = ("softplus", "exp")

# Index, among the statistics, of the derivative of the loss by the raw multiplier, which backward reads.
SLOPE_OF_RAW = 5

# Loss, statistics, slopes, ends, largest and spread, as in backends/reference/qrl_critic.py.
Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def multiplier_of(raw: Tensor, kind: str) -> Tensor:
    return functional.softplus(raw) if kind == "softplus" else raw.exp()


def distances(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, settings: QrlCriticSettings
) -> tuple[Tensor, Tensor]:
    """Returns the distances to the goals and to y, (B,) each; without goals, row i's is row i - 1 of y."""
    goal = y.roll(1, dims=0) if goal is None else goal
    weight = weights_of_rows(max_weight, settings.weight_link, x.shape[:1])
    return tuple(
        iqe(x, to, settings.dim_per_component, reduction=settings.reduction, max_weight=weight) for to in (goal, y)
    )


def terms(
    to_goal: Tensor, local: Tensor, raw: Tensor, cost: Tensor, settings: QrlCriticSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns push, mean squared violation and multiplier, each 0-d."""
    push = functional.softplus(settings.softplus_offset - to_goal, beta=settings.softplus_beta).mean()
    return push, (local - cost).relu().square().mean(), multiplier_of(raw, settings.multiplier)


def loss_of(push: Tensor, violation: Tensor, multiplier: Tensor, threshold: float) -> Tensor:
    """Returns push + multiplier * (violation - threshold); its derivative by the multiplier has the opposite sign."""
    excess, fixed = violation - threshold, multiplier.detach()
    return push + fixed * excess - (multiplier - fixed) * excess.detach()


def forward_with(
    head: ModuleType, x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor,
    settings: QrlCriticSettings,
) -> Kept:  # fmt: skip
    """Returns the kernels' results on a backend without kernels for this op, from its IQE functions, ``head``."""
    to = torch.stack([y.roll(1, dims=0) if goal is None else goal, y])
    distances, ends, largest, spread = head.iqe_forward(
        x.expand_as(to).contiguous(), to, max_weight, *settings[:3], True
    )
    to_goal, local = distances
    push, violation, multiplier = terms(to_goal, local, raw, cost, settings)
    excess = violation - settings.threshold
    by_raw = torch.sigmoid(raw) if settings.multiplier == "softplus" else multiplier
    stats = torch.stack([push, violation, multiplier, to_goal.mean(), local.mean(), -by_raw * excess])
    by_goal = -torch.sigmoid(settings.softplus_beta * (settings.softplus_offset - to_goal))
    by_local = 2 * multiplier * (local - cost).relu()
    slopes = torch.stack([by_goal, by_local]) / x.shape[0]
    return push + multiplier * excess, stats, slopes, ends, largest, spread


def backward_with(
    head: ModuleType, grad_loss: Tensor, stats: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, like: Tensor, has_goal: bool, *settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x, grad_to, grad_weight = head.iqe_backward(
        grad_loss * slopes, ends, largest, spread, max_weight, *settings, max_weight is not None
    )
    grad_y, grad_goal = grad_to[1], grad_to[0]
    if not has_goal:
        grad_y, grad_goal = grad_y + grad_goal.roll(-1, dims=0), None
    return grad_x.sum(dim=0), grad_y, grad_goal, grad_weight, grad_loss * stats[SLOPE_OF_RAW]


def qrl_critic_forward_outputs(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dim_per_component, reduction, *_ = settings
    rows, size = x.shape
    slopes = empty(x, 2, rows)
    ends = x.new_empty(2, rows, size // dim_per_component, (2 * dim_per_component + 7) // 8, dtype=torch.uint8)
    return torch.empty_like(raw), empty(x, 6), slopes, ends, *kept_of_reduction(slopes, reduction)


def qrl_critic_backward_outputs(
    grad_loss: Tensor, stats: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, like: Tensor, has_goal: bool, dim_per_component: int, reduction: str, weight_link: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x = like.new_empty(slopes.shape[1], ends.shape[2] * dim_per_component)
    grad_goal = torch.empty_like(grad_x) if has_goal else None
    grad_max_weight = None if max_weight is None else torch.empty_like(max_weight)
    return grad_x, torch.empty_like(grad_x), grad_goal, grad_max_weight, torch.empty_like(grad_loss)

"""QRL's critic with an IQE head, in plain PyTorch: the definition of the op ``qrl_critic``.

Wang et al. 2023, "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning" (arXiv 2304.01203). The
distances are those of definitions/iqe.py; the loss is written down in losses/qrl_critic.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .iqe import iqe, kept_outputs, weight_gradient_output, weights_of_rows
from .shapes import empty

MULTIPLIERS = ("softplus", "exp")

# Where among the statistics the derivative of the loss by the raw multiplier is, which backward reads.
SLOPE_OF_RAW = 5


class QrlCriticSettings(NamedTuple):
    """Which IQE and which Lagrangian: plain numbers and strings, in the order in which ops and backends take them.

    ``threshold`` is what the mean squared violation is held against: epsilon squared, or in OGBench epsilon.
    """

    dim_per_component: int
    reduction: str = "maxmean"
    weight_link: str = "identity"
    softplus_beta: float = 0.1
    softplus_offset: float = 15.0
    multiplier: str = "softplus"
    threshold: float = 0.0625


def multiplier_of(raw: Tensor, kind: str) -> Tensor:
    return functional.softplus(raw) if kind == "softplus" else raw.exp()


def distances(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, settings: QrlCriticSettings
) -> tuple[Tensor, Tensor]:
    """Those to the goals and those to y, (B,) each; without goals row i's is row i - 1 of y."""
    goal = y.roll(1, dims=0) if goal is None else goal
    weight = weights_of_rows(max_weight, settings.weight_link, x.shape[:1])
    return tuple(
        iqe(x, to, settings.dim_per_component, reduction=settings.reduction, max_weight=weight) for to in (goal, y)
    )


def terms(
    to_goal: Tensor, local: Tensor, raw: Tensor, cost: Tensor, settings: QrlCriticSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Push, squared violation and multiplier, each 0-d."""
    push = functional.softplus(settings.softplus_offset - to_goal, beta=settings.softplus_beta).mean()
    return push, (local - cost).relu().square().mean(), multiplier_of(raw, settings.multiplier)


def loss_of(push: Tensor, violation: Tensor, multiplier: Tensor, threshold: float) -> Tensor:
    """push + multiplier * (violation - threshold); its derivative by the multiplier has the opposite sign."""
    excess, fixed = violation - threshold, multiplier.detach()
    return push + fixed * excess - (multiplier - fixed) * excess.detach()


def qrl_critic_forward_outputs(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dim_per_component, reduction, *_ = settings
    rows, size = x.shape
    kept = kept_outputs(x, (2, rows), size // dim_per_component, dim_per_component, reduction)
    return empty(x), empty(x, 6), empty(x, 2, rows), *kept


def qrl_critic_backward_outputs(
    grad_loss: Tensor, stats: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, has_goal: bool, dim_per_component: int, reduction: str, weight_link: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x = empty(slopes, slopes.shape[1], ends.shape[2] * dim_per_component)
    grad_goal = torch.empty_like(grad_x) if has_goal else empty(slopes, 0)
    grad_max_weight = weight_gradient_output(slopes, max_weight, max_weight is not None)
    return grad_x, torch.empty_like(grad_x), grad_goal, grad_max_weight, empty(slopes)

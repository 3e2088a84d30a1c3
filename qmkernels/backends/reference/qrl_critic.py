"""QRL's critic with an IQE head on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. ``*settings`` are the fields of
``definitions.qrl_critic.QrlCriticSettings`` in their order. x, y and goal are (B, D); without a goal (None) row i's is
row i - 1 of y, the first row's the last. ``max_weight`` is 0-d, as for IQE, None unless the reduction is maxmean;
``raw`` is 0-d; ``cost`` is (B,) or (1,). A tensor that is not needed is returned empty, of shape (0,). In what is kept
for backward, pair 0 is to the goals and pair 1 to y.

``loss``     0-d.
``stats``    (6,): push, violation, multiplier, mean distance to the goals, to y, and, at
             ``SLOPE_OF_RAW``, the derivative by ``raw``.
``slopes``   (2, B): the derivative of the loss by each distance.
``ends``     uint8 (2, B, C, ceil(2K / 8)), ``largest`` int32 (2, B) and ``spread`` (2, B): as for IQE.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...definitions import qrl_critic as definition
from ...definitions.qrl_critic import QrlCriticSettings
from . import iqe

Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> Kept:
    """``loss, stats, slopes, ends, largest, spread``."""
    return forward_with(iqe, x, y, goal, max_weight, raw, cost, QrlCriticSettings(*settings))


def qrl_critic_backward(
    grad_loss: Tensor,
    stats: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    has_goal: bool,
    *settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``grad_x, grad_y, grad_goal`` (B, D), the third empty without a goal; ``grad_max_weight``, empty without one, and
    ``grad_raw``, both 0-d."""
    return backward_with(iqe, grad_loss, stats, slopes, ends, largest, spread, max_weight, has_goal, *settings)


def forward_with(
    head: ModuleType, x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor,
    settings: QrlCriticSettings,
) -> Kept:  # fmt: skip
    """The pass on a backend that has IQE, ``head``, but no kernel of its own for this."""
    to = torch.stack([y.roll(1, dims=0) if goal is None else goal, y])
    distances, ends, largest, spread = head.iqe_forward(
        x.expand_as(to).contiguous(), to, max_weight, *settings[:3], True
    )
    to_goal, local = distances
    push, violation, multiplier = definition.terms(to_goal, local, raw, cost, settings)
    excess = violation - settings.threshold
    of_raw = torch.sigmoid(raw) if settings.multiplier == "softplus" else multiplier
    stats = torch.stack([push, violation, multiplier, to_goal.mean(), local.mean(), -of_raw * excess])
    of_goal = -torch.sigmoid(settings.softplus_beta * (settings.softplus_offset - to_goal))
    of_local = 2 * multiplier * (local - cost).relu()
    slopes = torch.stack([of_goal, of_local]) / x.shape[0]
    return push + multiplier * excess, stats, slopes, ends, largest, spread


def backward_with(
    head: ModuleType, grad_loss: Tensor, stats: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, has_goal: bool, *settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    of_x, of_to, of_weight = head.iqe_backward(
        grad_loss * slopes, ends, largest, spread, max_weight, *settings, max_weight is not None
    )
    grad_y, grad_goal = of_to[1], of_to[0]
    if not has_goal:
        grad_y, grad_goal = grad_y + grad_goal.roll(-1, dims=0), slopes.new_empty(0)
    return of_x.sum(dim=0), grad_y, grad_goal, of_weight, grad_loss * stats[definition.SLOPE_OF_RAW]

"""METRA's representation loss, in plain PyTorch: the definition of the op ``metra``.

Park et al. 2024, "METRA: Scalable Unsupervised RL with Metric-Aware Abstraction" (arXiv 2310.08887). losses/metra.py
has the formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import empty

NORMS = ("sum", "mean")


def squared_distance(step: Tensor, norm: str) -> Tensor:
    """Returns the squared length per row, (...) from (..., D)."""
    squares = step.square()
    return squares.sum(dim=-1) if norm == "sum" else squares.mean(dim=-1)


def terms(
    step: Tensor, skill: Tensor, squared: Tensor, log_multiplier: Tensor, slack: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the reward per row, the mean constraint and the multiplier, through which no gradient flows."""
    reward = (step * skill).sum(dim=-1)
    return reward, (1 - squared).clamp(max=slack).mean(), log_multiplier.detach().exp()


def loss_of(reward: Tensor, constraint: Tensor, multiplier: Tensor, log_multiplier: Tensor) -> Tensor:
    """Returns -mean(reward) - multiplier * constraint + log_multiplier * stopgrad(constraint)."""
    return -reward.mean() - multiplier * constraint + log_multiplier * constraint.detach()


def metra_forward_outputs(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = phi.shape[:-1]
    return empty(phi), empty(phi, *rows), empty(phi, 3), empty(phi, *rows)


def metra_backward_outputs(
    grad_loss: Tensor, phi: Tensor, phi_next: Tensor, skill: Tensor, stats: Tensor, slopes: Tensor, needs_skill: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_skill = torch.empty_like(phi) if needs_skill else None
    return torch.empty_like(phi), torch.empty_like(phi), grad_skill, empty(phi)

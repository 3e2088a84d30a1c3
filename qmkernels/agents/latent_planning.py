"""Plans by the latent dynamics of critics: the best of candidate actions, and the costs of plans of several for MPPI.

A critic has ``encoder``, ``dynamics``, ``projector``, ``embed`` and ``head``. Of several the largest distance counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..ops.broadcasting import every_pair
from .mppi import MPPI


def largest(distances: Iterable[Tensor]) -> Tensor:
    """Of the critics' distances, of one shape each."""
    return torch.stack(list(distances)).amax(dim=0)


def nearest_candidate(critics: Sequence[nn.Module], state: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
    """Of actions (..., N, action_size) the one, (...), after which a goal is nearest to a state, (..., size) each."""

    def after(critic: nn.Module) -> Tensor:
        latent = critic.encoder(state).unsqueeze(-2)
        reached = critic.projector(critic.dynamics(latent.expand(*latent.shape[:-2], actions.shape[-2], -1), actions))
        return critic.head(reached, critic.embed(goal).unsqueeze(-2))

    return largest(after(critic) for critic in critics).argmin(dim=-1)


def plan_cost(critics: Sequence[nn.Module], state: Tensor, goal: Tensor, mppi: MPPI) -> Callable[[Tensor], Tensor]:
    """Plans (..., samples, horizon, action_size) to their costs (..., samples), states and goals embedded once.

    A plan costs the sum of the distances to the goal after each of its actions, all but the last times ``step_weight``.
    """
    begun = [critic.encoder(state).unsqueeze(-2) for critic in critics]
    goals = [critic.embed(goal).unsqueeze(-2) for critic in critics]
    compared = mppi.horizon if mppi.step_weight else 1

    def along(critic: nn.Module, latent: Tensor, goal: Tensor, plans: Tensor) -> Tensor:
        latent, passed = latent.expand(*plans.shape[:-2], -1), []
        for action in plans.unbind(dim=-2):
            latent = critic.dynamics(latent, action)
            passed.append(latent)
        reached = critic.projector(torch.cat(passed[-compared:], dim=-2))
        return every_pair(critic.head, reached, goal).squeeze(-1).unflatten(-1, (compared, -1))

    def cost(plans: Tensor) -> Tensor:
        parts = zip(critics, begun, goals, strict=True)
        distances = largest(along(critic, latent, goal, plans) for critic, latent, goal in parts)
        return distances[..., -1, :] + mppi.step_weight * distances[..., :-1, :].sum(dim=-2)

    return cost

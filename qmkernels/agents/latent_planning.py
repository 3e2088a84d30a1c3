"""Planning by the critics' latent dynamics: the best of candidate actions, and the costs of longer plans for MPPI.

A critic has ``encoder``, ``dynamics``, ``projector``, ``embed`` and ``head``; several count by their largest distance.
An agent has ``critics``, and makes their input rows from states, goals and actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.broadcasting import every_pair
from .mppi import MPPI, first_actions


def largest(distances: Iterable[Tensor]) -> Tensor:
    """Returns the elementwise largest of the critics' distances."""
    return torch.stack(list(distances)).amax(dim=0)


def plan(
    agent: Any,
    observation: Tensor,
    goal: Tensor,
    candidate_actions: Tensor | None = None,
    mppi: MPPI | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the candidate action after which the goal is nearest by the latent dynamics, or the first action of an
    MPPI plan.

    Args:
        agent: has an ``actor``, whose action range bounds the plans, or is ``discrete``.
        observation, goal: (..., size), with equal leading sizes.
        candidate_actions: (N, action_size), or (..., N, action_size) with candidates per row; with ``discrete``,
            (N,) or (..., N) int64, and None means all actions.
        mppi: settings of MPPI, which replaces the candidates; not with ``discrete``. A plan costs the sum of the
            distances to the goal after each of its actions, all but the last times ``step_weight``.
        generator: of MPPI's noise, on the agent's device; the same generator state gives the same actions.

    Returns:
        (..., action_size), or (...) int64 with ``discrete``; of equally good candidates the first.

    Raises:
        ValueError: ``mppi`` with ``discrete`` or with candidates, or neither of the two for continuous actions.
    """
    name, critics = type(agent).__name__, agent.critics
    state, target = agent.state_inputs(observation), agent.goal_inputs(goal)
    if mppi is not None:
        if agent.discrete or candidate_actions is not None:
            raise ValueError(f"{name}.plan: mppi needs continuous actions and no candidate_actions; leave one out.")
        cost, actor = plan_cost(critics, state, target, mppi), agent.actor
        return first_actions(cost, actor.centre, actor.half_range, observation.shape[:-1], mppi, generator)
    if candidate_actions is None:
        if not agent.discrete:
            raise ValueError(f"{name}.plan: give candidate_actions or mppi; continuous actions cannot be enumerated.")
        candidate_actions = torch.arange(agent.action_size, device=observation.device)
    inner = 1 if agent.discrete else 2
    candidates = candidate_actions.expand(*observation.shape[:-1], *candidate_actions.shape[-inner:])
    best = nearest_candidate(critics, state, target, agent.action_inputs(candidates))
    if agent.discrete:
        return candidates.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    return candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, agent.action_size)).squeeze(-2)


def nearest_candidate(critics: Sequence[nn.Module], state: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
    """Returns the indices (...) of the actions (..., N, action_size) after which goals (..., size) are nearest."""

    def after(critic: nn.Module) -> Tensor:
        latent = critic.encoder(state).unsqueeze(-2)
        reached = critic.projector(critic.dynamics(latent.expand(*latent.shape[:-2], actions.shape[-2], -1), actions))
        return critic.head(reached, critic.embed(goal).unsqueeze(-2))

    return largest(after(critic) for critic in critics).argmin(dim=-1)


def plan_cost(critics: Sequence[nn.Module], state: Tensor, goal: Tensor, mppi: MPPI) -> Callable[[Tensor], Tensor]:
    """Returns a function from plans (..., samples, horizon, action_size) to their costs (..., samples).

    It embeds states and goals once. `plan` defines the cost.
    """
    initial = [critic.encoder(state).unsqueeze(-2) for critic in critics]
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
        parts = zip(critics, initial, goals, strict=True)
        distances = largest(along(critic, latent, goal, plans) for critic, latent, goal in parts)
        return distances[..., -1, :] + mppi.step_weight * distances[..., :-1, :].sum(dim=-2)

    return cost

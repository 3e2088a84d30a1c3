"""Goal-reaching agents of a critic and of an actor that learns from it, and a critic that several of them have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import optimisation
from .goal_agent import GoalAgent
from .networks import multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


class ActorCritic(GoalAgent):
    """A subclass gives `critic_loss` and `actor_loss`, and an ``update`` that checks its batch and calls `learn`."""

    critic: nn.Module

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss, and what is measured besides, detached."""
        raise NotImplementedError

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss, and what is measured besides, detached; the critic's parameters need no gradients meanwhile."""
        raise NotImplementedError

    def learn(self, batch: Batch) -> Metrics:
        """One step of the critic, then of the actor, where there is one; returns 0-d tensors, detached."""
        loss, metrics = self.critic_loss(batch)
        optimisation.step(self.optimizers["critic"], loss, self.group)
        if self.actor is not None:
            with optimisation.frozen(self.critic):
                loss, of_actor = self.actor_loss(batch)
                optimisation.step(self.optimizers["actor"], loss, self.group)
            metrics = {**metrics, **of_actor}
        return metrics

    def made_of(self) -> dict[str, Any]:
        """As `GoalAgent.made_of`, and the critic's head."""
        return {**super().made_of(), "head": repr(getattr(self.critic, "head", None))}


class Embeddings(nn.Module):
    """Ensembles of phi, of states and actions, and of psi, of goals, and the head that compares them.

    ``sizes``: hidden layers, GELU and then a layer norm, and the size of what the head compares.
    """

    def __init__(
        self, state_size: int, action_size: int, goal_size: int, sizes: Iterable[int], num: int, head: nn.Module
    ) -> None:
        super().__init__()
        sizes, how = tuple(sizes), dict(activation=nn.GELU, normalise=True)
        self.phis = nn.ModuleList(multilayer_perceptron(state_size + action_size, *sizes, **how) for _ in range(num))
        self.psis = nn.ModuleList(multilayer_perceptron(goal_size, *sizes, **how) for _ in range(num))
        self.head = head

    def phi(self, state: Tensor, action: Tensor) -> Tensor:
        """(num, ..., sizes[-1]) of (..., state_size) and (..., action_size), of the same leading sizes."""
        rows = torch.cat([state, action.to(state.dtype)], dim=-1)
        return torch.stack([member(rows) for member in self.phis])

    def psi(self, goal: Tensor) -> Tensor:
        """(num, ..., sizes[-1]) of (..., goal_size)."""
        return torch.stack([member(goal) for member in self.psis])

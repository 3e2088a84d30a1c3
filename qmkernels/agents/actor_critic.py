"""Goal-reaching agents with a critic and an actor that learns from it, and a critic shared by several of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import optimisation
from .goal_agent import GoalAgent
from .networks import FourierFeatures, multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


class ActorCritic(GoalAgent):
    """A subclass has `critic_loss`, `actor_loss` and an ``update`` that checks its batch and calls `learn`."""

    critic: nn.Module

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the loss and detached metrics."""
        raise NotImplementedError

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the loss and detached metrics; it is called with the critic frozen."""
        raise NotImplementedError

    def learn(self, batch: Batch) -> Metrics:
        """Takes one step of the critic, then of the actor if there is one; returns detached 0-d tensors."""
        loss, metrics = self.critic_loss(batch)
        optimisation.step(self.optimizers["critic"], loss, self.group)
        if self.actor is not None:
            with optimisation.frozen(self.critic):
                loss, actor_metrics = self.actor_loss(batch)
                optimisation.step(self.optimizers["actor"], loss, self.group)
            metrics = {**metrics, **actor_metrics}
        return metrics

    def made_of(self) -> dict[str, Any]:
        """Adds the critic's head to `GoalAgent.made_of`."""
        return {**super().made_of(), "head": repr(getattr(self.critic, "head", None))}


class Embeddings(nn.Module):
    """Ensembles of phi(state, action) and psi(goal), and the head that compares them.

    ``sizes``: the hidden layers (GELU, then a layer norm), and last the size of the embeddings. ``features``: of the
    places in states and goals, for all members.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        goal_size: int,
        sizes: Iterable[int],
        num: int,
        head: nn.Module,
        features: FourierFeatures | None = None,
    ) -> None:
        super().__init__()
        sizes, layers = tuple(sizes), dict(activation=nn.GELU, normalise=True)
        self.features = features if features and features.count else nn.Identity()
        added = features.added if features else 0
        state_size, goal_size = state_size + added, goal_size + added
        self.phis = nn.ModuleList(multilayer_perceptron(state_size + action_size, *sizes, **layers) for _ in range(num))
        self.psis = nn.ModuleList(multilayer_perceptron(goal_size, *sizes, **layers) for _ in range(num))
        self.head = head

    def phi(self, state: Tensor, action: Tensor) -> Tensor:
        """Embeds (..., state_size) and (..., action_size), with equal leading sizes, as (num, ..., sizes[-1])."""
        rows = torch.cat([self.features(state), action.to(state.dtype)], dim=-1)
        return torch.stack([member(rows) for member in self.phis])

    def psi(self, goal: Tensor) -> Tensor:
        """Embeds (..., goal_size) as (num, ..., sizes[-1])."""
        rows = self.features(goal)
        return torch.stack([member(rows) for member in self.psis])

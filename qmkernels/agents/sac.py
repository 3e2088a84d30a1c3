"""Soft actor-critic, of whatever reward: the networks and losses that an agent's own file puts together.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .goal_actor import Actor, TanhNormal
from .networks import EnsemblePerceptron


class SoftActor(Actor):
    """An `Actor` whose entropy is held near a target, in nats a value of an action, by the temperature alpha.

    Entropies are of actions in halves of their range, so that ranges do not matter.
    """

    def __init__(
        self,
        input_size: int,
        low: Tensor,
        high: Tensor,
        sizes: Iterable[int],
        temperature: float,
        target: float,
        encoder: nn.Module,
    ) -> None:
        super().__init__(input_size, low, high, sizes, encoder=encoder)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.target_entropy = target * len(low)

    @property
    def temperature(self) -> Tensor:
        """alpha, without gradients."""
        return self.log_temperature.detach().exp()

    def entropy(self, policy: TanhNormal) -> Tensor:
        """(B,) in nats, of one sample."""
        return policy.entropy(1) - self.half_range.log().sum()


class TwinCritic(EnsemblePerceptron):
    """Two Q (2, B) of states, conditions and actions in halves of their range, (B, size) each; ``encoder``: of states,
    which both Q share."""

    def __init__(self, encoder: nn.Module, *sizes: int) -> None:
        super().__init__(2, *sizes)
        self.encoder = encoder

    def forward(self, state: Tensor, condition: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([self.encoder(state), condition, action], dim=-1)).squeeze(-1).float()


@torch.no_grad()
def soft_target(
    critic: TwinCritic, actor: SoftActor, reward: Tensor, terminated: Tensor, state: Tensor, condition: Tensor,
    discount: float,
) -> Tensor:  # fmt: skip
    """reward + discount (min Q(s', z, a') + alpha H(pi(. | s', z))), without what follows on an end.

    Args:
        critic: of the averaged networks.
        reward, terminated: (B,).
        state, condition: s' and z, (B, size) each, or images as states.
    """
    policy = actor(state, condition)
    least = critic(state, condition, actions_of(actor, policy)).amin(dim=0)
    following = least + actor.temperature * actor.entropy(policy)
    return reward + discount * following.masked_fill(terminated.bool(), 0.0)


def critic_loss(critic: TwinCritic, target: Tensor, state: Tensor, condition: Tensor, action: Tensor) -> Tensor:
    """The squared error, a mean over rows and both Q; actions in halves of their range."""
    value = critic(state, condition, action)
    return functional.mse_loss(value, target.expand_as(value))


def actor_loss(
    actor: SoftActor, critic: TwinCritic, state: Tensor, condition: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean(-min Q(s, z, a) - alpha H) over the actor, and log(alpha) (H - target) over the temperature; metrics.

    Gradients of the critic are of no use.
    """
    policy = actor(state, condition)
    value = critic(state, condition, actions_of(actor, policy)).amin(dim=0).mean()
    entropy = actor.entropy(policy).mean()
    loss = -value - actor.temperature * entropy + actor.log_temperature * (entropy.detach() - actor.target_entropy)
    metrics = {"value": value, "entropy": entropy, "temperature": actor.temperature}
    return loss, {f"actor/{name}": each.detach() for name, each in metrics.items()}


def actions_of(actor: SoftActor, policy: TanhNormal) -> Tensor:
    """A sample (B, action_size) in halves of the actions' range, as the critic sees them."""
    return actor.in_halves(policy.sample())

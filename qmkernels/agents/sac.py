"""Soft actor-critic for any reward: networks and losses, from which agents are assembled.

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
    """An `Actor` whose temperature alpha holds its entropy near a target, in nats per action value.

    Entropies are those of actions in units of half their range, so that ranges do not matter.
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
        """Returns alpha, without gradients."""
        return self.log_temperature.detach().exp()

    def entropy(self, policy: TanhNormal) -> Tensor:
        """Estimates the entropy (B,), in nats, from one sample."""
        return policy.entropy(1) - self.half_range.log().sum()


class TwinCritic(EnsemblePerceptron):
    """Two Q, (2, B), of states, conditions and actions in units of half their range, (B, size) each, which share the
    ``encoder`` of states."""

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
    """Returns reward + discount (min Q(s', z, a') + alpha H(pi(. | s', z))), (B,); just the reward where terminated.

    Args:
        critic: the target networks.
        reward, terminated: (B,).
        state, condition: s' and z, (B, size) each, or images as states.
    """
    policy = actor(state, condition)
    least = critic(state, condition, actions_of(actor, policy)).amin(dim=0)
    following = least + actor.temperature * actor.entropy(policy)
    return reward + discount * following.masked_fill(terminated.bool(), 0.0)


def critic_loss(critic: TwinCritic, target: Tensor, state: Tensor, condition: Tensor, action: Tensor) -> Tensor:
    """Returns the squared error, averaged over rows and both Q networks; actions in units of half their range."""
    value = critic(state, condition, action)
    return functional.mse_loss(value, target.expand_as(value))


def actor_loss(
    actor: SoftActor, critic: TwinCritic, state: Tensor, condition: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns mean(-min Q(s, z, a) - alpha H) for the actor plus log(alpha) (H - target) for alpha; and metrics.

    Call it with the critic frozen.
    """
    policy = actor(state, condition)
    value = critic(state, condition, actions_of(actor, policy)).amin(dim=0).mean()
    entropy = actor.entropy(policy).mean()
    loss = -value - actor.temperature * entropy + actor.log_temperature * (entropy.detach() - actor.target_entropy)
    metrics = {"value": value, "entropy": entropy, "temperature": actor.temperature}
    return loss, {f"actor/{name}": value.detach() for name, value in metrics.items()}


def actions_of(actor: SoftActor, policy: TanhNormal) -> Tensor:
    """Samples actions (B, action_size) in units of half their range, as the critic sees them."""
    return actor.in_halves(policy.sample())

"""DDPG+HER, deterministic policy gradients with hindsight goals: the agent, without environment, buffer or logging.

Source: Andrychowicz et al. 2017, "Hindsight Experience Replay" (arXiv 1707.01495), and for critics that are distances
Liu et al. 2022, "Metric Residual Networks" (arXiv 2208.08133), whose public code is "the code" below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn import IQE, MRNFixed
from . import checks
from .actor_critic import ActorCritic, Batch, Metrics
from .goal_agent import expanded
from .moving_average import follow, target_of
from .networks import multilayer_perceptron


@dataclass(frozen=True)
class DDPGHERConfig:
    """The defaults are `published`. Learning rates are Adam's, without weight decay."""

    critic: Literal["mlp", "mrn", "iqe"] = "mlp"  # Q: a network of (s, a, g), or minus the distance of a head
    critic_sizes: tuple[int, ...] = (256, 256, 256)  # hidden layers of Q, or of phi and psi, with ReLU
    actor_sizes: tuple[int, ...] = (256, 256, 256)  # hidden layers of the actor, with ReLU
    latent_size: int = 176  # of phi and psi; unused by mlp
    dim_per_component: int = 16  # values per IQE component; unused by other critics

    discount: float = 0.98  # gamma
    tau: float = 0.00263  # share of the trained networks in each update of the targets
    ends_at_goal: bool = False  # the return ends where the goal is reached; otherwise steps that leave it count

    action_weight: float = 1.0  # weight of the mean square of the actor's actions, in units of half their range
    behaviour_cloning_weight: float = 0.0  # weight of half the squared error of actions, in units of half their range

    critic_learning_rate: float = 1e-3  # of the critic
    actor_learning_rate: float = 1e-3  # of the actor

    def __post_init__(self) -> None:
        checks.check_config(self, at_least_zero=("action_weight", "behaviour_cloning_weight"))
        if self.critic == "iqe" and self.latent_size % self.dim_per_component:
            raise ValueError(
                f"DDPGHERConfig: dim_per_component must divide latent_size, got {self.dim_per_component} and "
                f"{self.latent_size}."
            )
        if self.discount >= 1:
            raise ValueError(f"DDPGHERConfig: discount must be below 1, got {self.discount}.")
        if self.tau > 1:
            raise ValueError(f"DDPGHERConfig: tau must be at most 1, got {self.tau}.")

    @classmethod
    def published(cls, **changes: Any) -> DDPGHERConfig:
        """The code's setting for Fetch tasks (batches of 1024); ``changes`` override its fields.

        The code moves the targets by 0.1 after every 40 updates; here they move by 1 - 0.9^(1/40) after each. The
        code's distance critics have two hidden layers of 176.
        """
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> DDPGHERConfig:
        """Our own setting, which learns in minutes on one core; ``changes`` override its fields."""
        small = dict(
            critic_sizes=(256, 256), actor_sizes=(256, 256), latent_size=128, tau=0.02, critic_learning_rate=5e-4,
            actor_learning_rate=5e-4,
        )  # fmt: skip
        return cls(**{**small, **changes})


class Network(nn.Module):
    """Q as a network of state, goal and action: (..., size) each, with equal leading sizes, to (...)."""

    def __init__(self, state_size: int, goal_size: int, action_size: int, config: DDPGHERConfig) -> None:
        super().__init__()
        self.network = multilayer_perceptron(state_size + goal_size + action_size, *config.critic_sizes, 1)

    def forward(self, state: Tensor, goal: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([state, goal, action], dim=-1)).squeeze(-1).float()


class Distance(nn.Module):
    """Q as minus the head's distance from phi(s, a) to psi(g): (..., size) each, with equal leading sizes, to (...)."""

    def __init__(self, state_size: int, goal_size: int, action_size: int, config: DDPGHERConfig) -> None:
        super().__init__()
        latent = config.latent_size
        self.phi = multilayer_perceptron(state_size + action_size, *config.critic_sizes, latent)
        self.psi = multilayer_perceptron(goal_size, *config.critic_sizes, latent)
        self.head = IQE(latent, config.dim_per_component) if config.critic == "iqe" else MRNFixed(latent)

    def forward(self, state: Tensor, goal: Tensor, action: Tensor) -> Tensor:
        return -self.head(self.phi(torch.cat([state, action], dim=-1)), self.psi(goal)).float()


class DDPGHER(ActorCritic):
    r"""Learns minus the discounted steps to goals that episodes happened to reach, and an actor that minimises them.

    .. math:: \overline{(Q(s, a, g) - y)^2},\qquad y = \mathrm{clip}(r + \gamma\, Q'(s', \pi'(s', g), g),\
              -1/(1 - \gamma),\ 0)

    with r = 0 where s' reaches g and -1 elsewhere; Q' and pi' are moving averages of Q and pi. With ``ends_at_goal`` y
    is 0 where s' reaches g. The actor minimises -mean Q(s, pi(s, g), g) plus the weighted mean square of its actions
    and, for offline data, weighted behaviour cloning.

    Arguments: those of `GoalAgent`.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float.
        goal: (B, goal_size or observation_size), what Q is learned for.
        reached: (B,) bool, whether next_observation achieves ``goal``.
        actor_goal: the sizes of ``goal``, what the actor learns to reach (HER: ``goal``).

    Differences from the code: psi sees only the goal (in the code also the state), so that distances come from one
    quasimetric; the symmetric part of MRN is a norm (in the code its square, which its authors call a bug).

    Example:
        >>> agent = qm.agents.DDPGHER(4, 2, qm.agents.DDPGHERConfig.small(critic="iqe"))
        >>> rows = {name: torch.randn(16, 4) for name in ("observation", "next_observation", "goal", "actor_goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(16, 2) * 2 - 1, "reached": torch.zeros(16).bool()})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.distance(torch.randn(5, 4), torch.ones(4)).shape
        torch.Size([5])
    """

    config_class: ClassVar = DDPGHERConfig

    def make_networks(self) -> None:
        make_critic = Network if self.config.critic == "mlp" else Distance
        goal_size = self.goal_size or self.observation_size
        self.critic = make_critic(self.observation_size, goal_size, self.action_size, self.config)
        self.actor = self.make_actor(unit=True)
        self.target_critic, self.target_actor = target_of(self.critic), target_of(self.actor)

    def value(self, critic: nn.Module, observation: Tensor, goal: Tensor, action: Tensor) -> Tensor:
        """Returns one critic's Q (...), for rows with equal leading sizes; actions in units of half their range."""
        return critic(self.observation_scale(observation), self.goal_scale(goal), self.actor.in_halves(action))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Returns y, (B,)."""
        config, goal, reached = self.config, batch["goal"], batch["reached"].bool()
        observation = batch["next_observation"]
        action = self.target_actor(self.observation_scale(observation), self.goal_scale(goal)).mode
        following = config.discount * self.value(self.target_critic, observation, goal, action)
        target = (following - (~reached).to(following.dtype)).clamp(-1 / (1 - config.discount), 0)
        return target.masked_fill(reached, 0.0) if config.ends_at_goal else target

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the mean squared error, and the means of Q, of the targets and of ``reached``."""
        target = self.targets(batch)
        value = self.value(self.critic, batch["observation"], batch["goal"], batch["action"])
        loss = functional.mse_loss(value, target)
        reached = batch["reached"].float()
        means = {"loss": loss, "value": value.mean(), "target": target.mean(), "reached": reached.mean()}
        return loss, {f"critic/{name}": mean.detach() for name, mean in means.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns minus the mean value of the actor's actions plus their cost; call it with the critic frozen."""
        config, observation, goal = self.config, batch["observation"], batch["actor_goal"]
        policy = self.policy(observation, goal)
        value = self.value(self.critic, observation, goal, policy.mode).mean()
        square = ((policy.mode - policy.centre) / policy.half_range).square().mean()
        error = -policy.log_prob(batch["action"]).mean()
        loss = config.action_weight * square + config.behaviour_cloning_weight * error - value
        return loss, {"actor/value": value.detach(), "actor/square": square.detach(), "actor/cloning": error.detach()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of the critic, the actor and the targets; returns detached 0-d tensors."""
        self.check_batch(batch, "goal", "actor_goal", reached=())
        metrics = self.learn(batch)
        follow(self.target_critic, self.critic, self.config.tau)
        follow(self.target_actor, self.actor, self.config.tau)
        return metrics

    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = True) -> Tensor:
        """Acts as `GoalAgent.act`, always by the mode: the policy is deterministic; the experiment adds noise."""
        return super().act(observation, goal, deterministic=True)

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns -Q(s, pi(s, g), g) (...), the steps to the goal, the n-th counted as gamma^n; rows broadcast."""
        observation, goal = expanded(observation, goal)
        return -self.value(self.critic, observation, goal, self.policy(observation, goal).mode)

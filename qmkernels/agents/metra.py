"""METRA, metric-aware abstraction: the whole agent, without environment, buffer or logging.

Source: Park et al. 2024, "METRA: Scalable Unsupervised RL with Metric-Aware Abstraction" (arXiv 2310.08887), whose
public code is called "the code" below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..losses import metra
from ..nn import LatentMRN
from . import checks, optimisation, sac
from .goal_agent import expanded
from .moving_average import follow, target_of
from .networks import ImageEncoder, Standardise, multilayer_perceptron
from .trained import TrainedAgent

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

_NORMS = ("sum", "mean")


@dataclass(frozen=True)
class METRAConfig:
    """The defaults are `published`. Learning rates are Adam's, without weight decay."""

    skill_size: int = 2  # values in a skill, and in phi; of discrete skills, how many there are
    discrete_skills: bool = False  # skills are one-hot rows instead of unit vectors

    phi_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of phi, with ReLU, as in all networks
    critic_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of both Q
    actor_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of the actor
    encoder_sizes: tuple[int, ...] = (48, 96, 192, 384)  # of images, the channels of each network's own `ImageEncoder`

    norm: str = "sum"  # what is at most 1: the sum of the squares, as in the paper, or the mean, as in the code
    slack: float = 1e-3  # epsilon, at which the constraint is cut off
    initial_multiplier: float = 30.0  # lambda, of the constraint

    discount: float = 0.99  # gamma
    tau: float = 5e-3  # share of the trained Q in an update of their targets
    initial_temperature: float = 0.01  # alpha, of the entropy
    target_entropy: float = -0.5  # in nats a value of an action, in halves of its range; uniform actions have log 2

    phi_learning_rate: float = 1e-4  # of phi and the head
    multiplier_learning_rate: float = 1e-4  # of log lambda
    critic_learning_rate: float = 1e-4  # of both Q
    actor_learning_rate: float = 1e-4  # of the actor
    temperature_learning_rate: float = 1e-4  # of log alpha

    def __post_init__(self) -> None:
        checks.check_config(self, of_any_sign=("target_entropy",))
        if self.norm not in _NORMS:
            raise ValueError(f"METRAConfig: norm must be one of {', '.join(_NORMS)}, got {self.norm!r}.")
        if self.discrete_skills and self.skill_size < 2:
            raise ValueError("METRAConfig: skill_size must be at least 2 with discrete_skills.")
        if self.discount >= 1:
            raise ValueError(f"METRAConfig: discount must be below 1, got {self.discount}.")
        if self.tau > 1:
            raise ValueError(f"METRAConfig: tau must be at most 1, got {self.tau}.")

    @classmethod
    def published(cls, **changes: Any) -> METRAConfig:
        """The published setting (batches of 256), with ``changes`` to it."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> METRAConfig:
        """Networks that learn in minutes on one core, with ``changes`` to it; ours.

        With more entropy than published an action's size goes with the skill's direction, instead of all of them being
        at the ends of their range, where many skills are one.
        """
        small = dict(
            phi_sizes=(256, 256), critic_sizes=(256, 256), actor_sizes=(256, 256), encoder_sizes=(16, 32, 32),
            initial_temperature=0.1, target_entropy=0.0, phi_learning_rate=5e-4, multiplier_learning_rate=5e-3,
            critic_learning_rate=5e-4, actor_learning_rate=5e-4, temperature_learning_rate=5e-3,
        )  # fmt: skip
        return cls(**{**small, **changes})


class AsymmetricNorm(nn.Module):
    r"""A quasimetric for ``head``, :math:`\|x - y\| + \max_k \mathrm{relu}(x_k - y_k)`: (..., size) each to (...).

    It is `LatentMRN` with all values in both of its halves, so that it grows in every direction.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mrn = LatentMRN(2 * size, preset="ogbench")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.mrn(torch.cat([x, x], dim=-1), torch.cat([y, y], dim=-1))


class Representation(nn.Module):
    """phi, where skills are directions; the head that measures its steps, if any; the multiplier of the constraint."""

    def __init__(self, encoder: nn.Module, input_size: int, config: METRAConfig, head: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.phi = multilayer_perceptron(input_size, *config.phi_sizes, config.skill_size)
        self.head = head
        self.log_multiplier = nn.Parameter(torch.tensor(math.log(config.initial_multiplier)))


class METRA(TrainedAgent):
    r"""Learns latents phi in which steps are no longer than one, and skills z, directions along which an actor travels.

    From transitions (s, a, s') of episodes with a skill z each (`qmkernels.losses.metra`)

    .. math:: \max_\varphi\ \overline{(\varphi(s') - \varphi(s))^\top z}\quad\text{with}\quad
              \|\varphi(s') - \varphi(s)\|^2 \le 1

    by dual ascent on the constraint's multiplier, and soft actor-critic on the reward (phi(s') - phi(s))^T z.

    With a ``head`` the constraint is d(phi(s), phi(s'))^2 <= 1 for its quasimetric d, so that d(phi(s), phi(g)) is at
    most the fewest steps from s to g, which are more or fewer than those back. The paper has the Euclidean norm alone.
    d should grow in every direction, as `AsymmetricNorm` does: downwards IQE is 0, and only ways back hold phi there.

    Observations are vectors, or images with ``observation_size`` (channels, height, width): then phi, the critic and
    the actor begin with an `ImageEncoder` of their own each, as in the code, but for both Q, which share theirs.

    Arguments: those of `TrainedAgent`, and ``head``, which makes a quasimetric from its input size,
    ``config.skill_size``; None: the norm of ``config.norm``.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size), or (B, channels, height, width) uint8.
        action: (B, action_size) float.
        skill: (B, skill_size), that of the episode, as `skill_of` makes them.
        terminated: (B,) bool, whether the episode ended there, and not by its limit of steps.

    Rewards are those of phi before its step; the code computes them again after it.

    Example:
        >>> agent = qm.agents.METRA(4, 2, qm.agents.METRAConfig.small())
        >>> rows = {name: torch.randn(32, 4) for name in ("observation", "next_observation")}
        >>> skill = agent.skill_of(torch.randn(32, 2))
        >>> action, terminated = torch.rand(32, 2) * 2 - 1, torch.zeros(32, dtype=torch.bool)
        >>> metrics = agent.update({**rows, "action": action, "skill": skill, "terminated": terminated})
        >>> agent.act(torch.zeros(4), agent.skill_towards(torch.zeros(4), torch.ones(4))).shape
        torch.Size([2])
    """

    config_class: ClassVar = METRAConfig
    allows_images: ClassVar = True

    def make_networks(self, head: Callable[[int], nn.Module] | None = None) -> None:
        config, size = self.config, self.observation_size
        self.observation_scale, encoders = nn.Identity(), [nn.Identity() for _ in range(3)]
        if len(self.observation_shape) == 1:
            self.observation_scale = Standardise(size)
        else:
            encoders = [ImageEncoder(self.observation_shape, config.encoder_sizes) for _ in range(3)]
            size = encoders[0].output_size
        rows, made = size + config.skill_size, head(config.skill_size) if head else None
        self.representation = Representation(encoders[0], size, config, made)
        self.critic = sac.TwinCritic(encoders[1], rows + self.action_size, *config.critic_sizes, 1)
        self.target_critic = target_of(self.critic)
        self.actor = sac.SoftActor(
            rows, self.action_low, self.action_high, config.actor_sizes, config.initial_temperature,
            config.target_entropy, encoders[2],
        )  # fmt: skip

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        multiplier = [self.representation.log_multiplier], config.multiplier_learning_rate
        temperature = [self.actor.log_temperature], config.temperature_learning_rate
        return {
            "representation": optimisation.adamw(self.representation, config.phi_learning_rate, multiplier),
            "critic": optimisation.adamw(self.critic, config.critic_learning_rate),
            "actor": optimisation.adamw(self.actor, config.actor_learning_rate, temperature),
        }

    def standardise(self, observation: Tensor) -> None:
        """From now on the networks see observations less the mean of these rows (N, observation_size), over their
        deviation; not of images. (The code has fixed scales for two environments.) A group takes those of its first
        process."""
        self.observation_scale.fit(observation)
        optimisation.send(self.group, self.observation_scale)

    def representation_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Metrics]:
        """The loss of phi and of the multiplier, the reward (B,) of every row, and metrics."""
        phi, following = self.phi(torch.stack([batch["observation"], batch["next_observation"]])).unbind()
        made = self.representation
        found = metra(
            phi, following, self.direction_of(batch["skill"]), made.log_multiplier, slack=self.config.slack,
            norm=self.config.norm, head=made.head,
        )  # fmt: skip
        means = {
            "loss": found.loss, "reward": found.reward.mean(), "constraint": found.constraint,
            "multiplier": found.multiplier, "distance": found.distance,
        }  # fmt: skip
        return found.loss, found.reward, {f"phi/{name}": mean.detach() for name, mean in means.items()}

    def critic_loss(self, batch: Batch, reward: Tensor) -> tuple[Tensor, Metrics]:
        """The squared errors of both Q, and the mean of their targets."""
        state, following = self.observation_scale(torch.stack([batch["observation"], batch["next_observation"]]))
        target = sac.soft_target(
            self.target_critic, self.actor, reward, batch["terminated"], following, batch["skill"],
            self.config.discount,
        )  # fmt: skip
        action = self.actor.in_halves(batch["action"])
        loss = sac.critic_loss(self.critic, target, state, batch["skill"], action)
        return loss, {"critic/loss": loss.detach(), "critic/target": target.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss of the actor and of its temperature; gradients of the critic are of no use."""
        return sac.actor_loss(self.actor, self.critic, self.observation_scale(batch["observation"]), batch["skill"])

    def update(self, batch: Batch) -> Metrics:
        """One step of phi and the multiplier, of both Q, and of the actor; returns 0-d tensors, detached."""
        state, action, skill = self.observation_shape, (self.action_size,), (self.config.skill_size,)
        wanted = dict(observation=state, next_observation=state, action=action, skill=skill, terminated=())
        checks.check_batch("METRA", batch, wanted)
        loss, reward, metrics = self.representation_loss(batch)
        optimisation.step(self.optimizers["representation"], loss, self.group)
        loss, critic_metrics = self.critic_loss(batch, reward)
        optimisation.step(self.optimizers["critic"], loss, self.group)
        with optimisation.frozen(self.critic):
            loss, actor_metrics = self.actor_loss(batch)
            optimisation.step(self.optimizers["actor"], loss, self.group)
        follow(self.target_critic, self.critic, self.config.tau)
        return {**metrics, **critic_metrics, **actor_metrics}

    @torch.no_grad()
    def act(self, observation: Tensor, skill: Tensor, deterministic: bool = False) -> Tensor:
        """Actions along skills: (..., action_size) of (..., observation_size) and (..., skill_size), which broadcast.

        A sample of the actor, or its mode where ``deterministic``.
        """
        state = self.observation_scale(observation)
        policy = self.actor(*expanded(state, skill, observation_dims=len(self.observation_shape)))
        return policy.mode if deterministic else policy.sample()

    def phi(self, observation: Tensor) -> Tensor:
        """(..., skill_size) of (..., observation_size)."""
        made = self.representation
        return made.phi(made.encoder(self.observation_scale(observation))).float()

    def skill_of(self, direction: Tensor) -> Tensor:
        """The skill that points most in directions (..., skill_size), of the same shape; of normal noise, any skill.

        The unit vector, or with ``discrete_skills`` the one-hot row of the largest value.
        """
        if self.config.discrete_skills:
            return functional.one_hot(direction.argmax(dim=-1), self.config.skill_size).to(direction.dtype)
        return functional.normalize(direction, dim=-1)

    def direction_of(self, skill: Tensor) -> Tensor:
        """Where skills (..., skill_size) lead in phi: discrete ones less their mean, so that their sum is 0."""
        if not self.config.discrete_skills:
            return skill
        size = self.config.skill_size
        return (skill - 1 / size) * size / (size - 1)

    @torch.no_grad()
    def skill_towards(self, observation: Tensor, goal: Tensor) -> Tensor:
        """z = (phi(g) - phi(s)) / norm (..., skill_size), or the one-hot row of its argmax; goals are observations."""
        return self.skill_of(self.phi(goal) - self.phi(observation))

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "head": repr(self.representation.head)}

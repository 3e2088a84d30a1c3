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

    skill_size: int = 2  # values in a skill and in phi; the number of discrete skills
    discrete_skills: bool = False  # skills are one-hot rows instead of unit vectors

    phi_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of phi: ReLU, as in all networks
    critic_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of both Q networks
    actor_sizes: tuple[int, ...] = (1024, 1024)  # hidden layers of the actor
    encoder_sizes: tuple[int, ...] = (48, 96, 192, 384)  # channels of each network's `ImageEncoder`, for images

    norm: str = "sum"  # which must be at most 1: the squares' sum, as in the paper, or mean, as in the code
    slack: float = 1e-3  # epsilon, at which the constraint is clipped
    initial_multiplier: float = 30.0  # lambda, of the constraint

    discount: float = 0.99  # gamma
    tau: float = 5e-3  # share of the trained Q in each update of their targets
    initial_temperature: float = 0.01  # alpha, of the entropy
    target_entropy: float = -0.5  # in nats per action value, in units of half its range; uniform: log 2

    phi_learning_rate: float = 1e-4  # of phi and the head
    multiplier_learning_rate: float = 1e-4  # of log lambda
    critic_learning_rate: float = 1e-4  # of both Q networks
    actor_learning_rate: float = 1e-4  # of the actor
    temperature_learning_rate: float = 1e-4  # of log alpha

    def __post_init__(self) -> None:
        checks.check_config(self, of_any_sign=("target_entropy",))
        if self.norm not in _NORMS:
            raise ValueError(f"METRAConfig: norm must be one of {', '.join(_NORMS)}, got {self.norm!r}.")
        if self.discrete_skills and self.skill_size < 2:
            raise ValueError(f"METRAConfig: skill_size must be at least 2 with discrete_skills, got {self.skill_size}.")
        if self.discount >= 1:
            raise ValueError(f"METRAConfig: discount must be below 1, got {self.discount}.")
        if self.tau > 1:
            raise ValueError(f"METRAConfig: tau must be at most 1, got {self.tau}.")

    @classmethod
    def published(cls, **changes: Any) -> METRAConfig:
        """The published setting for vectors as observations (batches of 256); ``changes`` override its fields."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> METRAConfig:
        """Our own setting, which learns in minutes on one core; ``changes`` override its fields.

        With more entropy than published, an action's size varies with the skill's direction. Otherwise all actions sit
        at the ends of their range, where many skills act alike.
        """
        small = dict(
            phi_sizes=(256, 256), critic_sizes=(256, 256), actor_sizes=(256, 256), encoder_sizes=(16, 32, 32),
            initial_temperature=0.1, target_entropy=0.0, phi_learning_rate=5e-4, multiplier_learning_rate=5e-3,
            critic_learning_rate=5e-4, actor_learning_rate=5e-4, temperature_learning_rate=5e-3,
        )  # fmt: skip
        return cls(**{**small, **changes})


class AsymmetricNorm(nn.Module):
    r"""A quasimetric for ``head``, :math:`\|x - y\| + \max_k \mathrm{relu}(x_k - y_k)`: (..., size) each to (...).

    It is `LatentMRN` with all values in both halves, so that it grows in every direction.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mrn = LatentMRN(2 * size, preset="ogbench")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.mrn(torch.cat([x, x], dim=-1), torch.cat([y, y], dim=-1))


class Representation(nn.Module):
    """phi, in which skills are directions; the head that measures its steps, if any; the constraint's multiplier."""

    def __init__(self, encoder: nn.Module, input_size: int, config: METRAConfig, head: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.phi = multilayer_perceptron(input_size, *config.phi_sizes, config.skill_size)
        self.head = head
        self.log_multiplier = nn.Parameter(torch.tensor(math.log(config.initial_multiplier)))


class METRA(TrainedAgent):
    r"""Learns latents phi whose steps have at most length 1, and an actor that travels along directions z, the skills.

    From transitions (s, a, s') of episodes with one skill z each (`qmkernels.losses.metra`)

    .. math:: \max_\varphi\ \overline{(\varphi(s') - \varphi(s))^\top z}\quad\text{with}\quad
              \|\varphi(s') - \varphi(s)\|^2 \le 1

    by dual ascent on the constraint's multiplier, and soft actor-critic on the reward (phi(s') - phi(s))^T z.

    With a ``head`` the constraint is d(phi(s), phi(s'))^2 <= 1 for its quasimetric d, so that d(phi(s), phi(g)) is at
    most the fewest steps from s to g, which may differ from those back. The paper uses only the Euclidean norm. d
    should grow in every direction, as `AsymmetricNorm` does: IQE is 0 downwards, where only ways back constrain phi.

    Observations are vectors, or images if ``observation_size`` is (channels, height, width). Then phi, the critic and
    the actor each begin with their own `ImageEncoder`, as in the code, except that both Q share one.

    Arguments: those of `TrainedAgent`, and ``head``, which makes a quasimetric from its input size,
    ``config.skill_size``; None: the norm of ``config.norm``.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size), or (B, channels, height, width) uint8.
        action: (B, action_size) float.
        skill: (B, skill_size), the episode's, made by `skill_of`.
        terminated: (B,) bool, whether the environment ended the episode there, not a limit of steps.

    Rewards use phi before its step; the code computes them again after it.

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
        """Standardises the networks' observations by the mean and deviation of these rows (N, observation_size).

        Images are left as they are. (The code has fixed scales for two environments.) A group uses the rows of its
        first process.
        """
        self.observation_scale.fit(observation)
        optimisation.send(self.group, self.observation_scale)

    def representation_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Metrics]:
        """Returns the loss of phi and of the multiplier, the reward (B,) per row, and metrics."""
        phi, following = self.phi(torch.stack([batch["observation"], batch["next_observation"]])).unbind()
        result = metra(
            phi, following, self.direction_of(batch["skill"]), self.representation.log_multiplier,
            slack=self.config.slack, norm=self.config.norm, head=self.representation.head,
        )  # fmt: skip
        means = {
            "loss": result.loss, "reward": result.reward.mean(), "constraint": result.constraint,
            "multiplier": result.multiplier, "distance": result.distance,
        }  # fmt: skip
        return result.loss, result.reward, {f"phi/{name}": mean.detach() for name, mean in means.items()}

    def critic_loss(self, batch: Batch, reward: Tensor) -> tuple[Tensor, Metrics]:
        """Returns the squared error of both Q networks, and the mean of their targets."""
        state, following = self.observation_scale(torch.stack([batch["observation"], batch["next_observation"]]))
        target = sac.soft_target(
            self.target_critic, self.actor, reward, batch["terminated"], following, batch["skill"],
            self.config.discount,
        )  # fmt: skip
        action = self.actor.in_halves(batch["action"])
        loss = sac.critic_loss(self.critic, target, state, batch["skill"], action)
        return loss, {"critic/loss": loss.detach(), "critic/target": target.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the loss of the actor and of its temperature; call it with the critic frozen."""
        return sac.actor_loss(self.actor, self.critic, self.observation_scale(batch["observation"]), batch["skill"])

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of phi and the multiplier, both Q networks and the actor; returns detached 0-d tensors."""
        state, action, skill = self.observation_shape, (self.action_size,), (self.config.skill_size,)
        shapes = dict(observation=state, next_observation=state, action=action, skill=skill, terminated=())
        checks.check_batch("METRA", batch, shapes)
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
        """Returns actions (..., action_size) from (..., observation_size) along (..., skill_size), which broadcast.

        They are samples of the actor's policy, or its modes if ``deterministic``.
        """
        state = self.observation_scale(observation)
        policy = self.actor(*expanded(state, skill, observation_dims=len(self.observation_shape)))
        return policy.mode if deterministic else policy.sample()

    def phi(self, observation: Tensor) -> Tensor:
        """Embeds observations (..., observation_size) as (..., skill_size)."""
        networks = self.representation
        return networks.phi(networks.encoder(self.observation_scale(observation))).float()

    def skill_of(self, direction: Tensor) -> Tensor:
        """Returns the skills nearest to directions (..., skill_size), in the same shape; normal noise gives any skill.

        They are unit vectors, or with ``discrete_skills`` the one-hot rows of the largest values.
        """
        if self.config.discrete_skills:
            return functional.one_hot(direction.argmax(dim=-1), self.config.skill_size).to(direction.dtype)
        return functional.normalize(direction, dim=-1)

    def direction_of(self, skill: Tensor) -> Tensor:
        """Returns the directions in phi of skills (..., skill_size); discrete ones are centred, their sum is 0."""
        if not self.config.discrete_skills:
            return skill
        size = self.config.skill_size
        return (skill - 1 / size) * size / (size - 1)

    @torch.no_grad()
    def skill_towards(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns the skill z of phi(g) - phi(s), (..., skill_size), as `skill_of`; goals are observations."""
        return self.skill_of(self.phi(goal) - self.phi(observation))

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "head": repr(self.representation.head)}

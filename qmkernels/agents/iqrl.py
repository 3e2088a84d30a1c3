"""iQRL: TD3 on quantised latents that a latent dynamics model keeps consistent over time.

Source: Scannell et al. 2024, arXiv 2406.02696, and its public PyTorch code, which wins where they differ: the actor
maximises the mean of the sampled critics (in the paper their minimum). Unlike ours, the code divides the rollout's loss
by H, masks the step that ends an episode but not the steps after it, and decays the encoder's weights by 0.01. Both
take only vectors as observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..losses import temporal_consistency
from ..ops.fsq import Fsq, fsq
from . import checks, optimisation
from .moving_average import follow, target_of
from .networks import EnsemblePerceptron, multilayer_perceptron
from .trained import TrainedAgent

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

_ACTIVATIONS = {"mish": nn.Mish, "silu": nn.SiLU}
# Singular values below this share of the largest do not count towards the rank of the latents.
_RANK_TOLERANCE = 0.01


@dataclass(frozen=True)
class IQRLConfig:
    """The defaults are `published`. Learning rates are Adam's, without weight decay."""

    activation: str = "mish"  # after the LayerNorm of each hidden layer: mish, or silu, a fifth of its time on a CPU
    encoder_sizes: tuple[int, ...] = (256,)  # hidden layers of the encoder
    dynamics_sizes: tuple[int, ...] = (512, 512)  # hidden layers of the latent dynamics
    critic_sizes: tuple[int, ...] = (512, 512)  # hidden layers of each critic
    actor_sizes: tuple[int, ...] = (512, 512)  # hidden layers of the actor
    num_groups: int = 512  # groups of values in a latent, each quantised to one code
    fsq_levels: tuple[int, ...] = (8, 8)  # levels of a group's values; their product is the number of codes

    horizon: int = 5  # H, steps of the rollout
    rho: float = 0.9  # ratio of the weights of successive steps of the rollout
    encoder_tau: float = 0.005  # share of the encoder in each update of the momentum encoder
    gradient_norm: float = 20.0  # largest norm of the gradient of encoder and dynamics

    num_critics: int = 5
    num_sampled: int = 2  # critics drawn for each target and each actor loss
    n_steps: int = 1  # rewards in a return; the code has 3 for acrobot, fish, dog and reacher
    discount: float = 0.99  # gamma
    tau: float = 0.005  # share of the trained networks in each update of the targets
    policy_noise: float = 0.2  # deviation of the noise on the target's actions, in units of half their range
    noise_clip: float = 0.3  # largest noise on the target's actions
    actor_interval: int = 2  # updates of the critics per update of the actor

    encoder_learning_rate: float = 1e-4  # of encoder and dynamics
    critic_learning_rate: float = 3e-4
    actor_learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        object.__setattr__(self, "fsq_levels", tuple(self.fsq_levels))
        checks.check_config(self, at_least_zero=("policy_noise", "noise_clip"))
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"IQRLConfig: activation must be mish or silu, got {self.activation!r}.")
        if min(self.fsq_levels, default=0) < 2:
            raise ValueError(f"IQRLConfig: fsq_levels must be one or more, at least 2 each, got {self.fsq_levels}.")
        for name in ("rho", "encoder_tau", "tau", "discount"):
            if getattr(self, name) > 1:
                raise ValueError(f"IQRLConfig: {name} must be at most 1, got {getattr(self, name)}.")
        if self.num_sampled > self.num_critics:
            raise ValueError(
                f"IQRLConfig: num_sampled must be at most num_critics, got {self.num_sampled} of {self.num_critics}."
            )

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `multilayer_perceptron`, the same for all networks."""
        return dict(activation=_ACTIVATIONS[self.activation], normalise_before=True)

    @property
    def latent_size(self) -> int:
        """Values in a latent: one per level of each group."""
        return self.num_groups * len(self.fsq_levels)

    @property
    def num_codes(self) -> int:
        """Codes per group."""
        return math.prod(self.fsq_levels)

    @classmethod
    def published(cls, **changes: Any) -> IQRLConfig:
        """The code's setting for the DeepMind Control Suite; ``changes`` override its fields."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> IQRLConfig:
        """Our own setting, which learns Pendulum in minutes on one core; ``changes`` override its fields."""
        small = dict(
            activation="silu", encoder_sizes=(128,), dynamics_sizes=(128, 128), critic_sizes=(128, 128),
            actor_sizes=(128, 128), num_groups=32, encoder_learning_rate=3e-4, critic_learning_rate=1e-3,
            actor_learning_rate=1e-3,
        )  # fmt: skip
        return cls(**{**small, **changes})


class IQRL(TrainedAgent):
    r"""Learns latents that predict the next ones, values of latents and actions, and an actor that maximises them.

    With the encoder e, its moving average e', the latent dynamics f and the quantisation q (`qmkernels.fsq`), the
    latent of an observation is z = q(e(o)). Over windows of H steps, `qmkernels.losses.temporal_consistency`

    .. math:: \sum_{h=0}^{H-1} \rho^h\, \overline{1 - \cos(\hat z_{h+1},\ q(e'(o_{h+1})))},\qquad
              \hat z_{h+1} = q(\hat z_h + f(\hat z_h, a_h)),\quad \hat z_0 = z_0

    trains e and f. No gradient of TD3 reaches them. K critics minimise the mean of

    .. math:: (Q_k(z_0, a_0) - R - \gamma^m \min_j Q'_j(z_m,\ \pi'(z_m) + \epsilon))^2

    with the discounted rewards R of m steps, two newly drawn critics j, clipped noise epsilon, and moving averages Q'
    and pi'. In every second update the actor minimises -mean Q_j(z_0, pi(z_0)).

    Arguments: those of `TrainedAgent`.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation: (B, H + 1, observation_size), of H successive steps.
        action: (B, H, action_size) float.
        mask: (B, H) bool, False for steps after the end of the episode.
        n_step_return: (B,), R, the discounted rewards from the first observation on.
        bootstrap_observation: (B, observation_size), after those rewards.
        bootstrap_discount: (B,), gamma^m, 0 where the episode was terminated.

    Example:
        >>> agent = qm.agents.IQRL(3, 2, qm.agents.IQRLConfig.small())
        >>> batch = {"observation": torch.randn(16, 6, 3), "action": torch.rand(16, 5, 2) * 2 - 1}
        >>> batch |= {"mask": torch.ones(16, 5).bool(), "n_step_return": torch.randn(16)}
        >>> batch |= {"bootstrap_observation": torch.randn(16, 3), "bootstrap_discount": torch.full((16,), 0.99)}
        >>> metrics = agent.update(batch)
        >>> agent.act(torch.zeros(3)).shape
        torch.Size([2])
        >>> agent.encode(torch.randn(7, 3)).indices.shape
        torch.Size([7, 32])
    """

    config_class: ClassVar = IQRLConfig

    def make_networks(self) -> None:
        self.num_updates, config, network = 0, self.config, self.config.network
        latent, both = config.latent_size, config.latent_size + self.action_size
        self.encoder = multilayer_perceptron(self.observation_size, *config.encoder_sizes, latent, **network)
        self.dynamics = multilayer_perceptron(both, *config.dynamics_sizes, latent, **network)
        self.critics = EnsemblePerceptron(config.num_critics, both, *config.critic_sizes, 1, **network)
        actor = multilayer_perceptron(latent, *config.actor_sizes, self.action_size, **network)
        self.actor = nn.Sequential(actor, nn.Tanh())
        self.target_encoder, self.target_critics = target_of(self.encoder), target_of(self.critics)
        self.target_actor = target_of(self.actor)
        self.centre = (self.action_low + self.action_high) / 2
        self.half_range = (self.action_high - self.action_low) / 2

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config, representation = self.config, nn.ModuleList([self.encoder, self.dynamics])
        return {
            "encoder": optimisation.adamw(representation, config.encoder_learning_rate),
            "critics": optimisation.adamw(self.critics, config.critic_learning_rate),
            "actor": optimisation.adamw(self.actor, config.actor_learning_rate),
        }

    def encode(self, observation: Tensor) -> Fsq:
        """Encodes observations as ``codes`` (..., latent_size), the latents, and ``indices`` (..., num_groups)."""
        return fsq(self.encoder(observation), self.config.fsq_levels)

    def next_latent(self, latent: Tensor, action: Tensor) -> Tensor:
        """Returns q(z + f(z, a)) (..., latent_size) for actions in [-1, 1]."""
        change = self.dynamics(torch.cat([latent, action], dim=-1))
        return fsq(latent + change, self.config.fsq_levels).codes

    def value(self, critics: nn.Module, latent: Tensor, action: Tensor, members: Tensor | None = None) -> Tensor:
        """Returns Q (members, B) for latents (B, latent_size) and actions in [-1, 1]; ``members``: default all."""
        return critics(torch.cat([latent, action], dim=-1), members).squeeze(-1).float()

    def representation_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the rollout's loss, and the mean cosines of its first and last step."""
        config = self.config
        observation, action = batch["observation"].transpose(0, 1), self._unit(batch["action"]).transpose(0, 1)
        with torch.no_grad():
            target = fsq(self.target_encoder(observation[1:]), config.fsq_levels).codes
        latent, predicted = self.encode(observation[0]).codes, []
        for step in range(config.horizon):
            latent = self.next_latent(latent, action[step])
            predicted.append(latent)
        loss, similarity = temporal_consistency(torch.stack(predicted), target, batch["mask"].t(), discount=config.rho)
        means = {"loss": loss, "similarity_first": similarity[0], "similarity_last": similarity[-1]}
        return loss, {f"encoder/{name}": mean.detach() for name, mean in means.items()}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Returns R + gamma^m min_j Q'_j(z_m, pi'(z_m) + noise), (B,)."""
        config, latent = self.config, self.encode(batch["bootstrap_observation"]).codes
        action = self.target_actor(latent)
        noise = (config.policy_noise * torch.randn_like(action)).clamp(-config.noise_clip, config.noise_clip)
        value = self.value(self.target_critics, latent, (action + noise).clamp(-1, 1), self._sampled()).amin(dim=0)
        return batch["n_step_return"] + batch["bootstrap_discount"] * value

    def critic_loss(self, latent: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the mean squared error of all critics, and the means of values and targets."""
        target = self.targets(batch)
        value = self.value(self.critics, latent, self._unit(batch["action"][:, 0]))
        loss = functional.mse_loss(value, target.expand_as(value))
        means = {"loss": loss, "value": value.mean(), "target": target.mean()}
        return loss, {f"critic/{name}": mean.detach() for name, mean in means.items()}

    def actor_loss(self, latent: Tensor) -> tuple[Tensor, Metrics]:
        """Returns minus the mean value of the actor's actions; call it with the critic frozen."""
        action = self.actor(latent).float()
        value = self.value(self.critics, latent, action, self._sampled()).mean()
        return -value, {"actor/value": value.detach(), "actor/square": action.detach().square().mean()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of encoder and dynamics, of the critics, in every ``actor_interval``-th call of the actor, and
        of their moving averages. Returns detached 0-d tensors."""
        self._check_batch(batch)
        config = self.config
        loss, metrics = self.representation_loss(batch)
        optimisation.step(self.optimizers["encoder"], loss, self.group, largest_norm=config.gradient_norm)
        follow(self.target_encoder, self.encoder, config.encoder_tau)
        with torch.no_grad():
            latent = self.encode(batch["observation"][:, 0]).codes
        loss, critic_metrics = self.critic_loss(latent, batch)
        optimisation.step(self.optimizers["critics"], loss, self.group)
        follow(self.target_critics, self.critics, config.tau)
        metrics |= critic_metrics
        self.num_updates += 1
        if self.num_updates % config.actor_interval == 0:
            with optimisation.frozen(self.critics):
                loss, actor_metrics = self.actor_loss(latent)
                optimisation.step(self.optimizers["actor"], loss, self.group)
            follow(self.target_actor, self.actor, config.tau)
            metrics |= actor_metrics
        return metrics

    @torch.no_grad()
    def act(self, observation: Tensor, condition: None = None, deterministic: bool = True) -> Tensor:
        """Returns actions (..., action_size), always the same ones: the experiment adds the noise."""
        return self.centre + self.half_range * self.actor(self.encode(observation).codes)

    @torch.no_grad()
    def latent_statistics(self, observation: Tensor) -> dict[str, float]:
        """Returns, for observations (N, observation_size), ``latent_rank``, the rank of their latents, and
        ``codes_in_use``, the share of a group's codes that they use, averaged over groups."""
        latents, config = self.encode(observation), self.config
        rank = torch.linalg.matrix_rank(latents.codes.float(), rtol=_RANK_TOLERANCE)
        is_used = torch.zeros(config.num_groups, config.num_codes, device=latents.indices.device)
        is_used.scatter_(1, latents.indices.t(), 1.0)
        return {"latent_rank": float(rank), "codes_in_use": is_used.mean().item()}

    def _unit(self, action: Tensor) -> Tensor:
        """Scales actions from their range to [-1, 1]."""
        return (action - self.centre) / self.half_range

    def _sampled(self) -> Tensor:
        return torch.randperm(self.config.num_critics, device=self.centre.device)[: self.config.num_sampled]

    def _check_batch(self, batch: Batch) -> None:
        steps, observation = self.config.horizon, self.observation_size
        shapes = {"observation": (steps + 1, observation), "action": (steps, self.action_size), "mask": (steps,)}
        shapes |= {"n_step_return": (), "bootstrap_observation": (observation,), "bootstrap_discount": ()}
        checks.check_batch("IQRL", batch, shapes)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.num_updates = state["num_updates"]

"""TMD, temporal metric distillation: the whole agent, without environment, buffer or logging.

Source: Myers et al. 2025 (arXiv 2509.20478) and its public code, called "the code" below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..losses import tmd_critic
from ..losses.tmd_critic import TMDCritic
from ..nn import LatentMRN
from ..ops.broadcasting import every_pair
from . import checks
from .actor_critic import ActorCritic, Batch, Embeddings, Metrics

# A constant, because torch.compile of torch 2.6 does not trace named tuples' _fields and _asdict.
_MEASURES = TMDCritic._fields


@dataclass(frozen=True)
class TMDConfig:
    """The defaults are `published`, in the code's numbers. Learning rates are Adam's, without weight decay."""

    critic_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of phi and psi: GELU, then a layer norm
    actor_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of the actor: GELU
    latent_size: int = 512  # of phi and psi, which the head compares
    fourier_features: int = 0  # sines, and as many cosines, of each place, for phi, psi, actor; not the paper's
    fourier_inputs: int = 2  # leading values of an observation, and of a goal, that are its place
    fourier_frequencies: tuple[float, float] = (0.5, 12.0)  # lowest and highest, in radians per standardised unit
    num_components: int = 8  # of the metric residual network; unused by other heads
    num_critics: int = 2  # members of the ensembles; the actor follows their largest distance

    discount: float = 0.99  # gamma of the temporal invariance
    zeta: float = 0.05  # weight of the temporal invariance
    clip: float = 3.0  # excess of a distance over its target beyond which the divergence is linear
    diagonal_weight: float = 0.5  # share of matching pairs in the temporal invariance term
    contrastive_scale: float | None = None  # factor of distances in the contrastive term; None: latent_size**-0.5

    behaviour_cloning_weight: float = 0.1  # weight of half the squared error of actions, in units of half their range

    critic_learning_rate: float = 3e-4  # of phi, psi and the head
    actor_learning_rate: float = 3e-4  # of the actor

    def __post_init__(self) -> None:
        free = ("zeta", "diagonal_weight", "behaviour_cloning_weight", "fourier_features")
        checks.check_config(self, at_least_zero=free)
        if self.discount > 1:
            raise ValueError(f"TMDConfig: discount must be at most 1, got {self.discount}.")

    @classmethod
    def published(cls, **changes: Any) -> TMDConfig:
        """The published setting (OGBench; batches of 512, 1,000,000 updates); ``changes`` override its fields."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> TMDConfig:
        """Our own setting, which learns a small maze in minutes on one core; ``changes`` override its fields."""
        small = dict(critic_sizes=(256, 256), actor_sizes=(256, 256), latent_size=128, critic_learning_rate=5e-4)
        return cls(**{**small, **changes})


class TMD(ActorCritic):
    r"""Learns the successor distance, a quasimetric from states and actions to goals, and an actor that follows it.

    Per member of the ensemble, from transitions (s, a, s') and a goal g that is a state after s
    (`qmkernels.losses.tmd_critic`)

    .. math:: \mathrm{NCE}(-d(\varphi(s, a), \psi(g)) / \sqrt D) + \overline{d(\psi(s), \varphi(s, a))}
              + \zeta\, D_\gamma(d(\varphi(s, a), \psi(g)),\ d(\psi(s'), \psi(g)))

    With a ``contrastive_scale`` of 1, instead of 1 / sqrt(D), both terms take distances in one unit, minus the log of a
    discounted probability. The actor minimises the members' largest d(phi(s, a), psi(g)) over its mean, plus behaviour
    cloning.

    Arguments: those of `GoalAgent`, and ``head``, which makes the head from its input size; default
    ``LatentMRN(size, config.num_components, preset="tmd")``. With ``goal_size`` psi's input rows hold observations,
    goals and an indicator. (The code has only observations.) Goals of other processes in the group are not compared.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float.
        goal: (B, goal_size or observation_size), achieved later in the same episode, drawn geometrically.
        actor_goal: in the same shape, what the actor learns to reach.

    The policy is normal with deviation 1 around its mode, so that behaviour cloning is a squared error. Ours are: the
    tanh that keeps the mode within the range, goals that are sets, and standardised inputs.

    Example:
        >>> agent = qm.agents.TMD(4, 2, qm.agents.TMDConfig.small(latent_size=32))
        >>> rows = {name: torch.randn(16, 4) for name in ("observation", "next_observation", "goal", "actor_goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(16, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.pairwise_distance(torch.randn(5, 4), torch.randn(7, 4)).shape
        torch.Size([5, 7])
    """

    config_class: ClassVar = TMDConfig

    def make_networks(self, head: Callable[[int], nn.Module] | None = None) -> None:
        config = self.config
        make_head = head or (lambda size: LatentMRN(size, config.num_components, preset="tmd"))
        self.critic = Embeddings(
            self.input_size, self.action_size, self.input_size, (*config.critic_sizes, config.latent_size),
            config.num_critics, make_head(config.latent_size), self.critic_features(),
        )  # fmt: skip
        self.actor = self.make_actor(unit=True, features=self.actor_features(), activation=nn.GELU)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the mean of the members' losses and `tmd_critic`'s other fields."""
        config, size = self.config, len(batch["observation"])
        state, action = self.state_inputs(batch["observation"]), batch["action"]
        rows = torch.cat([state, self.goal_inputs(batch["goal"])])
        phi, (psi, psi_goal) = self.critic.phi(state, action), self.critic.psi(rows).split(size, dim=1)
        with torch.no_grad():
            psi_next = self.critic.psi(self.state_inputs(batch["next_observation"]))
        result = tmd_critic(
            self.critic.head, phi, psi, psi_next, psi_goal, discount=config.discount, zeta=config.zeta,
            clip=config.clip, diagonal_weight=config.diagonal_weight, scale=config.contrastive_scale,
        )  # fmt: skip
        return result.loss, {f"critic/{name}": getattr(result, name).detach() for name in _MEASURES}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the normalised distance plus behaviour cloning; call it with the critic frozen."""
        policy = self.policy(batch["observation"], batch["actor_goal"])
        state, goal = self.state_inputs(batch["observation"]), self.goal_inputs(batch["actor_goal"])
        with torch.no_grad():
            target = self.critic.psi(goal)
        distance = self.critic.head(self.critic.phi(state, policy.mode), target).amax(dim=0)
        error = -policy.log_prob(batch["action"]).mean()
        mean = distance.mean()
        loss = mean / (mean.detach() + 1e-6) + self.config.behaviour_cloning_weight * error
        return loss, {"actor/distance": mean.detach(), "actor/cloning": error.detach()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of the critics, then of the actor; returns detached 0-d tensors."""
        self.check_batch(batch, "goal", "actor_goal")
        return self.learn(batch)

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns the members' largest d(psi(observation), psi(goal)) (...), in learned units; rows broadcast."""
        state, target = self.state_inputs(observation), self.goal_inputs(goal)
        # Members go last, so that the leading sizes broadcast.
        return self.critic.head(*(self.critic.psi(rows).movedim(0, -2) for rows in (state, target))).amax(dim=-1)

    @torch.no_grad()
    def pairwise_distance(self, observations: Tensor, goals: Tensor) -> Tensor:
        """Returns distances (..., N, M) from N observations to M goals, by the head's pairwise kernel."""
        state, target = self.state_inputs(observations), self.goal_inputs(goals)
        return every_pair(self.critic.head, self.critic.psi(state), self.critic.psi(target)).amax(dim=0)

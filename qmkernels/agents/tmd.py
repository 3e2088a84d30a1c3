"""TMD, temporal metric distillation: the whole agent, without environment, buffer or logging.

Source: Myers et al. 2025 (arXiv 2509.20478) and its public code, which is called "the code" below.
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
    num_components: int = 8  # of the metric residual network; no meaning for another head
    num_critics: int = 2  # members of the ensembles; the actor goes by the largest of their distances

    discount: float = 0.99  # gamma of the temporal invariance
    zeta: float = 0.05  # weight of the temporal invariance
    clip: float = 3.0  # excess of a distance over its target from which the divergence is linear
    diagonal_weight: float = 0.5  # share of matching pairs in the temporal invariance

    behaviour_cloning_weight: float = 0.1  # of half the squared error of actions, in halves of their range

    critic_learning_rate: float = 3e-4  # of phi, psi and the head
    actor_learning_rate: float = 3e-4  # of the actor

    def __post_init__(self) -> None:
        free = ("zeta", "diagonal_weight", "behaviour_cloning_weight")
        checks.check_config(self, at_least_zero=free)
        if self.discount > 1:
            raise ValueError(f"TMDConfig: discount must be at most 1, got {self.discount}.")

    @classmethod
    def published(cls, **changes: Any) -> TMDConfig:
        """The published setting (OGBench; batches of 512, 1,000,000 updates), with ``changes`` to it."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> TMDConfig:
        """Networks that learn a small maze in minutes on one core, with ``changes`` to it; ours."""
        small = dict(critic_sizes=(256, 256), actor_sizes=(256, 256), latent_size=128, critic_learning_rate=5e-4)
        return cls(**{**small, **changes})


class TMD(ActorCritic):
    r"""Learns a quasimetric between states with actions and goals, a successor distance, and an actor that follows it.

    Per member of the ensemble, from transitions (s, a, s') and a goal g that is a state after s
    (`qmkernels.losses.tmd_critic`)

    .. math:: \mathrm{NCE}(-d(\varphi(s, a), \psi(g)) / \sqrt D) + \overline{d(\psi(s), \varphi(s, a))}
              + \zeta\, D_\gamma(d(\varphi(s, a), \psi(g)),\ d(\psi(s'), \psi(g)))

    The actor minimises the largest of the members' d(phi(s, a), psi(g)) over its mean, plus behaviour cloning.

    Arguments: those of `GoalAgent`, and ``head``, which makes the head from its input size; default
    ``LatentMRN(size, config.num_components, preset="tmd")``. With ``goal_size`` psi's rows have room for observations,
    goals and an indicator. (The code knows observations alone.) Goals of a group's other processes are not compared.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float.
        goal: (B, goal_size or observation_size), achieved later in the same episode, drawn geometrically.
        actor_goal: the same sizes, what the actor learns to reach.

    The policy is normal with deviation 1 around its mode, so that behaviour cloning is a squared error. What is ours:
    tanh keeps the mode within the range, goals that are sets, and inputs that can be standardised.

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
            config.num_critics, make_head(config.latent_size),
        )  # fmt: skip
        self.actor = self.make_actor(unit=True, activation=nn.GELU)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The mean of the members' losses, and what `tmd_critic` measures besides."""
        config, size = self.config, len(batch["observation"])
        state, action = self.state_inputs(batch["observation"]), batch["action"]
        rows = torch.cat([state, self.state_inputs(batch["next_observation"]), self.goal_inputs(batch["goal"])])
        phi, (psi, psi_next, psi_goal) = self.critic.phi(state, action), self.critic.psi(rows).split(size, dim=1)
        found = tmd_critic(
            self.critic.head, phi, psi, psi_next, psi_goal, discount=config.discount, zeta=config.zeta,
            clip=config.clip, diagonal_weight=config.diagonal_weight,
        )  # fmt: skip
        return found.loss, {f"critic/{name}": getattr(found, name).detach() for name in _MEASURES}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Normalised distance plus behaviour cloning; gradients of the critics are of no use."""
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
        """One step of the critics, then of the actor; returns 0-d tensors, detached."""
        self.check_batch(batch, "goal", "actor_goal")
        return self.learn(batch)

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """d(psi(observation), psi(goal)) (...), the largest of the members'; rows broadcast. In units of its own."""
        state, target = self.state_inputs(observation), self.goal_inputs(goal)
        # Members last, so that the rows before them broadcast.
        return self.critic.head(*(self.critic.psi(rows).movedim(0, -2) for rows in (state, target))).amax(dim=-1)

    @torch.no_grad()
    def pairwise_distance(self, observations: Tensor, goals: Tensor) -> Tensor:
        """Distances (..., N, M) from each of N observations to each of M goals, by the head's pairwise kernel."""
        state, target = self.state_inputs(observations), self.goal_inputs(goals)
        return every_pair(self.critic.head, self.critic.psi(state), self.critic.psi(target)).amax(dim=0)

"""TMD, temporal metric distillation: the whole agent, without environment, buffer or logging.

Source: Myers et al. 2025 (arXiv 2509.20478) and its public code, which is called "the code" below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import tmd_critic
from ..losses.tmd_critic import TMDCritic
from ..nn import LatentMRN
from ..ops.broadcasting import every_pair
from . import checks, optimisation
from .goal_actor import Actor
from .goal_agent import GoalAgent
from .networks import multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

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


class Critic(nn.Module):
    """Ensembles of phi, of states and actions, and of psi, of states and goals; and the head that compares them."""

    def __init__(self, input_size: int, action_size: int, config: TMDConfig, head: nn.Module) -> None:
        super().__init__()
        sizes, how = (*config.critic_sizes, config.latent_size), dict(activation=nn.GELU, normalise=True)
        members = range(config.num_critics)
        self.phis = nn.ModuleList(multilayer_perceptron(input_size + action_size, *sizes, **how) for _ in members)
        self.psis = nn.ModuleList(multilayer_perceptron(input_size, *sizes, **how) for _ in members)
        self.head = head

    def phi(self, state: Tensor, action: Tensor) -> Tensor:
        """(num_critics, ..., latent_size) of (..., input_size) and (..., action_size), of the same leading sizes."""
        rows = torch.cat([state, action.to(state.dtype)], dim=-1)
        return torch.stack([member(rows) for member in self.phis])

    def psi(self, rows: Tensor) -> Tensor:
        """(num_critics, ..., latent_size) of (..., input_size)."""
        return torch.stack([member(rows) for member in self.psis])


class TMD(GoalAgent):
    r"""Learns a quasimetric between states with actions and goals, a successor distance, and an actor that follows it.

    Per member of the ensemble, from transitions (s, a, s') and a goal g that is a state after s
    (`qmkernels.losses.tmd_critic`)

    .. math:: \mathrm{NCE}(-d(\varphi(s, a), \psi(g)) / \sqrt D) + \overline{d(\psi(s), \varphi(s, a))}
              + \zeta\, D_\gamma(d(\varphi(s, a), \psi(g)),\ d(\psi(s'), \psi(g)))

    The actor minimises the largest of the members' d(phi(s, a), psi(g)) over its mean, plus behaviour cloning.

    Args:
        observation_size: values in an observation.
        action_size: values in an action.
        config: default `TMDConfig.published()`.
        goal_size: None: goals are observations. Otherwise goals have this many values, and stand for all states that
            achieve them: psi's rows have room for both and an indicator. (The code knows observations alone.)
        action_low, action_high: the actions' range, numbers or one a value. Default -1 and 1.
        head: makes the head from its input size; default ``LatentMRN(size, config.num_components, preset="tmd")``.
        device: of the networks. Default: torch's.
        group: processes that train together, of `torch.distributed`: gradients are averaged before each step. Goals
            of other processes are not compared.

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

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: TMDConfig | None = None,
        *,
        goal_size: int | None = None,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        head: Callable[[int], nn.Module] | None = None,
        device: torch.device | str | None = None,
        group: optimisation.Group | None = None,
    ) -> None:
        config = config or TMDConfig.published()
        super().__init__(
            observation_size, action_size, config, goal_size=goal_size, action_low=action_low, action_high=action_high,
            group=group,
        )  # fmt: skip
        make_head = head or (lambda size: LatentMRN(size, config.num_components, preset="tmd"))
        self.critic = Critic(self.input_size, action_size, config, make_head(config.latent_size))
        self.actor = Actor(
            self.actor_input_size, self.action_low, self.action_high, config.actor_sizes, unit=True,
            activation=nn.GELU,
        )  # fmt: skip
        self.has_networks(device, critic=self.critic, actor=self.actor)
        self.optimizers = {
            "critic": optimisation.adamw(self.critic, config.critic_learning_rate),
            "actor": optimisation.adamw(self.actor, config.actor_learning_rate),
        }

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
        loss, metrics = self.critic_loss(batch)
        optimisation.step(self.optimizers["critic"], loss, self.group)
        with optimisation.frozen(self.critic):
            loss, actor_metrics = self.actor_loss(batch)
            optimisation.step(self.optimizers["actor"], loss, self.group)
        return {**metrics, **actor_metrics}

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

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "head": repr(self.critic.head)}

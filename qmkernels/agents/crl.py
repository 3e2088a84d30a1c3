"""CRL, contrastive reinforcement learning: the whole agent, without environment, buffer or logging.

Source: Eysenbach et al. 2022 (arXiv 2206.07568), offline as in OGBench (Park et al. 2024, arXiv 2410.20092), whose code
is called "the code" below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..losses import contrastive
from ..losses.contrastive import Contrastive
from ..nn import IQE, LatentMRN
from . import checks
from .actor_critic import ActorCritic, Batch, Embeddings, Metrics
from .goal_agent import expanded

# A constant, because torch.compile of torch 2.6 does not trace named tuples' _fields and _asdict.
_MEASURES = Contrastive._fields


@dataclass(frozen=True)
class CRLConfig:
    """The defaults are `published`, in the code's numbers. Learning rates are Adam's, without weight decay."""

    critic_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of phi and psi: GELU, then a layer norm
    actor_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of the actor: GELU
    latent_size: int = 512  # of phi and psi, D
    num_critics: int = 2  # members of the ensemble; the actor follows their smallest logit
    critic: Literal["product", "mrn", "iqe"] = "product"  # compares phi and psi: inner product, or minus a quasimetric
    form: Literal["sigmoid", "softmax"] = "sigmoid"  # of the loss: per pair, or over the states of each goal

    behaviour_cloning_weight: float = 0.1  # weight of half the squared error of actions, in units of half their range

    critic_learning_rate: float = 3e-4  # of phi, psi and the head
    actor_learning_rate: float = 3e-4  # of the actor

    def __post_init__(self) -> None:
        checks.check_config(self, at_least_zero=("behaviour_cloning_weight",))

    @classmethod
    def published(cls, **changes: Any) -> CRLConfig:
        """The published setting (OGBench's ant mazes; batches of 1024, 1,000,000 updates); ``changes`` override it."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> CRLConfig:
        """Our own setting, which learns a small maze in minutes on one core; ``changes`` override its fields."""
        small = dict(
            critic_sizes=(256, 256), actor_sizes=(256, 256), latent_size=128, behaviour_cloning_weight=0.03,
            critic_learning_rate=5e-4,
        )  # fmt: skip
        return cls(**{**small, **changes})


class InnerProduct(nn.Module):
    """Minus the inner product in place of a distance: (..., D) and (..., D) to (...); leading sizes broadcast.

    It is not a distance: it takes both signs and violates the triangle inequality. Runs in float32 under
    ``torch.autocast``.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return -(x.float() * y.float()).sum(dim=-1)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """Compares every pair: (..., N, D) and (..., M, D) to (..., N, M)."""
        with torch.autocast(x.device.type, enabled=False):
            return -(x.float() @ y.float().mT)


class CRL(ActorCritic):
    r"""Learns which goals follow a state and an action, and an actor that makes its goal likely.

    Per member of the ensemble, from pairs (s, a) and states g_j after them, by `qmkernels.losses.contrastive`

    .. math:: f(s, a, g) = \varphi(s, a)^T \psi(g) / \sqrt D,\qquad
              \mathrm{mean}_{ij}\ \mathrm{softplus}(f_{ij}) - [i = j] f_{ii}

    whose optimum is the logarithm of p(g after s, a) / p(g), so that f orders actions as the discounted probability of
    reaching g does. The actor maximises the smallest of the members' f over its mean size, plus behaviour cloning.

    Arguments: those of `GoalAgent`, and ``head``, which makes a quasimetric d from its input size and replaces
    ``config.critic``: f = -d / sqrt(D). It is at most 0 and suits ``form="softmax"``; with a sigmoid no pair gets a
    probability above one half. Goals of other processes in the group are not compared.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float.
        goal: (B, goal_size or observation_size), achieved later in the same episode, drawn geometrically.
        actor_goal: the same sizes, what the actor learns to reach.

    The policy is normal with deviation 1 around its mode, so that behaviour cloning is a squared error. What is ours:
    tanh keeps the mode within the range, where the code cuts it off, the softmax and the quasimetric heads.

    Example:
        >>> agent = qm.agents.CRL(4, 2, qm.agents.CRLConfig.small(latent_size=32))
        >>> rows = {name: torch.randn(16, 4) for name in ("observation", "next_observation", "goal", "actor_goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(16, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.distance(torch.randn(5, 4), torch.ones(4)).shape
        torch.Size([5])
    """

    config_class: ClassVar = CRLConfig

    def make_networks(self, head: Callable[[int], nn.Module] | None = None) -> None:
        config = self.config
        make_head = head or {"product": lambda _: InnerProduct(), "mrn": LatentMRN, "iqe": IQE}[config.critic]
        self.critic = Embeddings(
            self.observation_size, self.action_size, self.goal_size or self.observation_size,
            (*config.critic_sizes, config.latent_size), config.num_critics, make_head(config.latent_size),
        )  # fmt: skip
        self.actor = self.make_actor(unit=True, activation=nn.GELU)

    def logit(self, phi: Tensor, psi: Tensor) -> Tensor:
        """Returns the members' smallest f = -head(phi, psi) / sqrt(D): (num_critics, ..., latent_size) to (...)."""
        return -(1 / math.sqrt(self.config.latent_size)) * self.critic.head(phi, psi).amax(dim=0)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the mean of the members' losses and `contrastive`'s other fields."""
        phi = self.critic.phi(self.observation_scale(batch["observation"]), batch["action"])
        psi = self.critic.psi(self.goal_scale(batch["goal"]))
        result = contrastive(self.critic.head, phi, psi, form=self.config.form)
        return result.loss, {f"critic/{name}": getattr(result, name).detach() for name in _MEASURES}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns minus the normalised logit plus behaviour cloning; call it with the critic frozen."""
        policy = self.policy(batch["observation"], batch["actor_goal"])
        with torch.no_grad():
            target = self.critic.psi(self.goal_scale(batch["actor_goal"]))
        logit = self.logit(self.critic.phi(self.observation_scale(batch["observation"]), policy.mode), target)
        error = -policy.log_prob(batch["action"]).mean()
        size = logit.detach().abs().mean()
        loss = self.config.behaviour_cloning_weight * error - logit.mean() / (size + 1e-6)
        return loss, {"actor/logit": logit.detach().mean(), "actor/cloning": error.detach()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of the critic, then of the actor; returns detached 0-d tensors."""
        self.check_batch(batch, "goal", "actor_goal")
        return self.learn(batch)

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """-f(s, pi(s, g), g) (...), the largest of the members'; rows broadcast. Smaller is nearer; of either sign
        unless the head is a distance."""
        observation, goal = expanded(observation, goal)
        phi = self.critic.phi(self.observation_scale(observation), self.policy(observation, goal).mode)
        return -self.logit(phi, self.critic.psi(self.goal_scale(goal)))

"""CRL, contrastive reinforcement learning: the whole agent, without environment, buffer or logging.

Source: Eysenbach et al. 2022 (arXiv 2206.07568), offline as in OGBench (Park et al. 2024, arXiv 2410.20092), whose code
is called "the code" below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import contrastive
from ..losses.contrastive import Contrastive
from ..nn import IQE, LatentMRN
from . import checks, optimisation
from .goal_actor import Actor
from .goal_agent import GoalAgent, expanded
from .networks import multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

# A constant, because torch.compile of torch 2.6 does not trace named tuples' _fields and _asdict.
_MEASURES = Contrastive._fields
_FORMS = ("sigmoid", "softmax")
_CRITICS = ("product", "mrn", "iqe")


@dataclass(frozen=True)
class CRLConfig:
    """The defaults are `published`, in the code's numbers. Learning rates are Adam's, without weight decay."""

    critic_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of phi and psi: GELU, then a layer norm
    actor_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of the actor: GELU
    latent_size: int = 512  # of phi and psi, D
    num_critics: int = 2  # members of the ensemble; the actor goes by the smallest of their logits
    critic: str = "product"  # what compares phi and psi: the inner product, or minus a quasimetric, mrn or iqe
    form: str = "sigmoid"  # of the contrastive loss: sigmoid, every pair by itself; softmax, over the states of a goal

    behaviour_cloning_weight: float = 0.1  # of half the squared error of actions, in halves of their range

    critic_learning_rate: float = 3e-4  # of phi, psi and the head
    actor_learning_rate: float = 3e-4  # of the actor

    def __post_init__(self) -> None:
        checks.check_config(self, at_least_zero=("behaviour_cloning_weight",))
        for name, choices in (("critic", _CRITICS), ("form", _FORMS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"CRLConfig: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")

    @classmethod
    def published(cls, **changes: Any) -> CRLConfig:
        """The published setting (OGBench's mazes for ants; batches of 1024, 1,000,000 updates), with ``changes``."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> CRLConfig:
        """Networks that learn a small maze in minutes on one core, with ``changes`` to it; ours."""
        small = dict(
            critic_sizes=(256, 256), actor_sizes=(256, 256), latent_size=128, behaviour_cloning_weight=0.03,
            critic_learning_rate=5e-4,
        )  # fmt: skip
        return cls(**{**small, **changes})


class InnerProduct(nn.Module):
    """Minus the inner product, in the place of a distance: (..., D) and (..., D) to (...); leading sizes broadcast.

    It is no distance: it has either sign, and no triangle inequality. In float32 under ``torch.autocast``.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return -(x.float() * y.float()).sum(dim=-1)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., N, D) and (..., M, D) to (..., N, M)."""
        with torch.autocast(x.device.type, enabled=False):
            return -(x.float() @ y.float().mT)


class Critic(nn.Module):
    """Ensembles of phi, of states and actions, and of psi, of goals; and the head that compares them."""

    def __init__(self, state_size: int, action_size: int, goal_size: int, config: CRLConfig, head: nn.Module) -> None:
        super().__init__()
        sizes, how = (*config.critic_sizes, config.latent_size), dict(activation=nn.GELU, normalise=True)
        members = range(config.num_critics)
        self.phis = nn.ModuleList(multilayer_perceptron(state_size + action_size, *sizes, **how) for _ in members)
        self.psis = nn.ModuleList(multilayer_perceptron(goal_size, *sizes, **how) for _ in members)
        self.head = head
        self.scale = 1 / math.sqrt(config.latent_size)

    def phi(self, state: Tensor, action: Tensor) -> Tensor:
        """(num_critics, ..., latent_size) of (..., state_size) and (..., action_size), of the same leading sizes."""
        rows = torch.cat([state, action.to(state.dtype)], dim=-1)
        return torch.stack([member(rows) for member in self.phis])

    def psi(self, goal: Tensor) -> Tensor:
        """(num_critics, ..., latent_size) of (..., goal_size)."""
        return torch.stack([member(goal) for member in self.psis])

    def logit(self, phi: Tensor, psi: Tensor) -> Tensor:
        """The smallest of the members' f = -head(phi, psi) / sqrt(D): (num_critics, ..., latent_size) to (...)."""
        return -self.scale * self.head(phi, psi).amax(dim=0)


class CRL(GoalAgent):
    r"""Learns which goals follow on a state and an action, and an actor for whom its goal is among them.

    Per member of the ensemble, from pairs (s, a) and states g_j after them, by `qmkernels.losses.contrastive`

    .. math:: f(s, a, g) = \varphi(s, a)^T \psi(g) / \sqrt D,\qquad
              \mathrm{mean}_{ij}\ \mathrm{softplus}(f_{ij}) - [i = j] f_{ii}

    whose optimum is the logarithm of p(g after s, a) / p(g), so that f orders actions as the discounted probability of
    reaching g does. The actor maximises the smallest of the members' f over its mean size, plus behaviour cloning.

    Args:
        observation_size: values in an observation.
        action_size: values in an action.
        config: default `CRLConfig.published()`.
        goal_size: values in a goal; None: goals are observations.
        action_low, action_high: the actions' range, numbers or one a value. Default -1 and 1.
        head: makes a quasimetric d from its input size, in the place of what ``config.critic`` names: f = -d / sqrt(D).
            That is at most 0 and suits ``form="softmax"``; by a sigmoid no pair is more probable than one half.
        device: of the networks. Default: torch's.
        group: processes that train together, of `torch.distributed`: gradients are averaged before each step. Goals
            of other processes are not compared.

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

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: CRLConfig | None = None,
        *,
        goal_size: int | None = None,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        head: Callable[[int], nn.Module] | None = None,
        device: torch.device | str | None = None,
        group: optimisation.Group | None = None,
    ) -> None:
        config = config or CRLConfig.published()
        super().__init__(
            observation_size, action_size, config, goal_size=goal_size, action_low=action_low, action_high=action_high,
            group=group,
        )  # fmt: skip
        make_head = head or {"product": lambda _: InnerProduct(), "mrn": LatentMRN, "iqe": IQE}[config.critic]
        self.critic = Critic(
            observation_size, action_size, goal_size or observation_size, config, make_head(config.latent_size)
        )
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
        """The mean of the members' losses, and what `contrastive` measures besides."""
        phi = self.critic.phi(self.observation_scale(batch["observation"]), batch["action"])
        psi = self.critic.psi(self.goal_scale(batch["goal"]))
        found = contrastive(self.critic.head, phi, psi, form=self.config.form)
        return found.loss, {f"critic/{name}": getattr(found, name).detach() for name in _MEASURES}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Minus the normalised logit plus behaviour cloning; gradients of the critic are of no use."""
        policy = self.policy(batch["observation"], batch["actor_goal"])
        with torch.no_grad():
            target = self.critic.psi(self.goal_scale(batch["actor_goal"]))
        logit = self.critic.logit(self.critic.phi(self.observation_scale(batch["observation"]), policy.mode), target)
        error = -policy.log_prob(batch["action"]).mean()
        size = logit.detach().abs().mean()
        loss = self.config.behaviour_cloning_weight * error - logit.mean() / (size + 1e-6)
        return loss, {"actor/logit": logit.detach().mean(), "actor/cloning": error.detach()}

    def update(self, batch: Batch) -> Metrics:
        """One step of the critic, then of the actor; returns 0-d tensors, detached."""
        self.check_batch(batch, "goal", "actor_goal")
        loss, metrics = self.critic_loss(batch)
        optimisation.step(self.optimizers["critic"], loss, self.group)
        with optimisation.frozen(self.critic):
            loss, actor_metrics = self.actor_loss(batch)
            optimisation.step(self.optimizers["actor"], loss, self.group)
        return {**metrics, **actor_metrics}

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """-f(s, pi(s, g), g) (...), the largest of the members'; rows broadcast. Smaller is nearer; of either sign
        unless the head is a distance."""
        observation, goal = expanded(observation, goal)
        phi = self.critic.phi(self.observation_scale(observation), self.policy(observation, goal).mode)
        return -self.critic.logit(phi, self.critic.psi(self.goal_scale(goal)))

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "head": repr(self.critic.head)}

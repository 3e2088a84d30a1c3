"""MetricRL: the whole agent, without environment, buffer or logging.

Source: Reichlin, Vasco, Yin and Kragic 2024, "Learning Goal-Conditioned Policies from Sub-Optimal Offline Data via
Metric Learning" (arXiv 2402.10820), and its public code, called "the code" below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..losses import metric_contrastive
from ..ops.broadcasting import every_pair
from ..ops.mrn import euclidean_pairwise
from . import checks
from .actor_critic import ActorCritic, Batch, Metrics
from .goal_agent import expanded
from .networks import multilayer_perceptron, residual_perceptron


@dataclass(frozen=True)
class MetricRLConfig:
    """The defaults are `published`, in the code's numbers. Learning rates are Adam's, without weight decay."""

    phi_width: int = 64  # of the residual network phi: ReLU
    phi_blocks: int = 3  # its blocks x + f(x), where f has two hidden layers
    latent_size: int = 128  # of phi
    actor_sizes: tuple[int, ...] = (32, 32, 32)  # hidden layers of the actor: ReLU
    dynamics_sizes: tuple[int, ...] = (64, 64, 64)  # hidden layers of the forward model of discrete actions: ReLU

    repulsion_weight: float = 1.0  # of minus the mean log distance of other pairs
    super_state: bool = False  # an extra state, one step from each episode's last, joins what the data leaves apart
    value: Literal["distance", "discounted"] = "distance"  # V is -d, as in the code, or discount ** d, as in the paper
    discount: float = 0.95  # only for the discounted value
    normalise_advantages: bool = False  # divides them by their mean magnitude in the batch; ours
    cloning_weight: float = 0.0  # added to every advantage as a weight; ours

    critic_learning_rate: float = 1e-3  # of phi, the head and the forward model
    actor_learning_rate: float = 1e-3  # of the actor

    def __post_init__(self) -> None:
        checks.check_config(self, at_least_zero=("phi_blocks", "repulsion_weight", "cloning_weight"))
        if self.discount > 1:
            raise ValueError(f"MetricRLConfig: discount must be at most 1, got {self.discount}.")

    @classmethod
    def published(cls, **changes: Any) -> MetricRLConfig:
        """The published setting (batches of 256, 50,000 updates, 5,000 of phi alone); ``changes`` override it."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> MetricRLConfig:
        """Our own setting, which learns a small maze in minutes on one core; ``changes`` override its fields."""
        sizes = dict(phi_width=256, phi_blocks=2, actor_sizes=(256, 256), dynamics_sizes=(256, 256))
        return cls(**{**sizes, "normalise_advantages": True, **changes})


class Euclidean(nn.Module):
    r"""The paper's head, :math:`\|x - y\|` over the last dimension; its gradient at x = y is 0.

    In float32 under ``torch.autocast``.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x.float() - y.float(), dim=-1)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        return euclidean_pairwise(x, y)


class Critic(nn.Module):
    """phi, the head that compares its latents and, for discrete actions, the change of states that they make."""

    def __init__(
        self, input_size: int, change_sizes: tuple[int, ...] | None, config: MetricRLConfig, head: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = residual_perceptron(input_size, config.phi_width, config.phi_blocks, config.latent_size)
        self.head = head
        self.super_state = nn.Parameter(torch.zeros(config.latent_size)) if config.super_state else None
        self.change = None if change_sizes is None else multilayer_perceptron(*change_sizes, zero_output=True)


class MetricRL(ActorCritic):
    r"""Learns latents whose distances order states by their steps, and imitates the actions that bring goals nearer.

    From transitions (s, a, s') (`qmkernels.losses.metric_contrastive`)

    .. math:: \overline{(d(\varphi(s_i), \varphi(s'_i)) - 1)^2}
              - w\, \overline{\log(d(\varphi(s_i), \varphi(s'_j)) + 10^{-6})}^{\,i \ne j}

    For a goal g, with V(s, g) = -d(phi(s), phi(g)) or discount ** d and without gradients for phi, the actor minimises

    .. math:: -\overline{(V(s', g) - V(s, g)) \log \pi(a \mid s, g)}

    Advantages keep their sign, as in the paper and the code: the actor avoids actions that lead away from the goal.
    The policy is normal with deviation 1 around a mode that tanh keeps within the range, as in the code, so that the
    loss stays bounded.

    If no episode connects two parts of the states, their distance grows without bound. With ``config.super_state`` one
    more latent is learned, one step away from the last state of every episode in both directions (section 3.4; the
    code does so for images, with an observation of zeros).

    With ``discrete`` there is no actor. A forward model is learned by the mean of ||s + f(s, a) - s'||^2 over
    standardised states, and `act` takes the action after which the goal is nearest. (The code has that and, in its
    experiments, a softmax over actions by the advantages.)

    Arguments: those of `GoalAgent`, and ``head``, which makes the head from its input size; None: `Euclidean`, as
    published. A quasimetric head, the paper's suggested next step, tells the way there from the way back, for actions
    that cannot be undone. With ``goal_size`` a goal's latent is learned as the mean of the latents of the states that
    achieve it, without changing those. States of other processes in the group are not compared.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float, or (B,) int64 with ``discrete``.
        achieved_goal: (B, goal_size), what next_observation achieves; only with ``goal_size``.
        goal: (B, goal_size or observation_size), what the actor learns to reach; not with ``discrete``.
        terminated, truncated: (B,) bool, whether next_observation is the last of its episode; only with
            ``config.super_state``.

    Example:
        >>> agent = qm.agents.MetricRL(4, 2, qm.agents.MetricRLConfig.small(), head=lambda size: qm.nn.IQE(size, 16))
        >>> rows = {name: torch.randn(32, 4) for name in ("observation", "next_observation", "goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(32, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.pairwise_distance(torch.randn(5, 4), torch.randn(7, 4)).shape
        torch.Size([5, 7])
    """

    config_class: ClassVar = MetricRLConfig
    allows_discrete: ClassVar = True

    def make_networks(self, head: Callable[[int], nn.Module] | None = None) -> None:
        metric, size = Euclidean() if head is None else head(self.config.latent_size), self.observation_size
        change_sizes = (size + self.action_size, *self.config.dynamics_sizes, size) if self.discrete else None
        self.critic = Critic(self.input_size, change_sizes, self.config, metric)
        if not self.discrete:
            self.actor = self.make_actor(unit=True)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the loss of phi and the head, plus those of goals and of the forward model, and its terms."""
        critic, rows = self.critic, [self.state_inputs(batch[name]) for name in ("observation", "next_observation")]
        if self.goal_size is not None:
            rows.append(self.goal_inputs(batch["achieved_goal"]))
        z, z_next, *goal = critic.encoder(torch.cat(rows)).split(len(batch["observation"]))
        result = metric_contrastive(z, z_next, head=critic.head, weight=self.config.repulsion_weight)
        loss = result.loss
        metrics = {f"critic/{name}": getattr(result, name) for name in ("steps", "repulsion", "length")}
        if goal:
            error = (goal[0].float() - z_next.detach()).square().sum(dim=-1).mean()
            loss, metrics["critic/goal"] = loss + error, error.detach()
        if critic.super_state is not None:
            is_last, beyond = batch["terminated"].bool() | batch["truncated"].bool(), critic.super_state.expand_as(z)
            there_and_back = critic.head(z_next, beyond), critic.head(beyond, z_next)
            error = sum(((length - 1).square() * is_last).mean() for length in there_and_back) / 2
            loss, metrics["critic/super_state"] = loss + error, error.detach()
        if self.discrete:
            reached, following = self.after(batch["observation"], batch["action"]), batch["next_observation"]
            error = ((reached - following) / self.observation_scale.scale).square().sum(dim=-1).mean()
            loss, metrics["critic/dynamics"] = loss + error, error.detach()
        return loss, {"critic/loss": loss.detach(), **metrics}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns minus the weighted mean log-density of the data's actions, and metrics."""
        before, after = (self._value(batch[name], batch["goal"]) for name in ("observation", "next_observation"))
        weight = advantage = after - before
        if self.config.normalise_advantages:
            weight = advantage / (advantage.abs().mean() + 1e-6)
        log_prob = self.policy(batch["observation"], batch["goal"]).log_prob(batch["action"])
        loss = -((weight + self.config.cloning_weight) * log_prob).mean()
        metrics = {"actor/loss": loss, "actor/advantage": advantage.mean(), "actor/log_prob": log_prob.mean()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of phi, head and forward model, then of the actor; returns detached 0-d tensors."""
        achieved = ("achieved_goal",) if self.goal_size is not None else ()
        ends = dict(terminated=(), truncated=()) if self.config.super_state else {}
        self.check_batch(batch, *achieved, *(("goal",) if self.actor is not None else ()), **ends)
        return self.learn(batch)

    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = False) -> Tensor:
        """Acts as `GoalAgent.act`; with ``discrete``, returns the actions (...) after which the goals are nearest."""
        if self.actor is not None:
            return super().act(observation, goal, deterministic)
        observation, goal = (rows.unsqueeze(-2) for rows in expanded(observation, goal))
        actions = torch.arange(self.action_size, device=observation.device).expand(*observation.shape[:-2], -1)
        with torch.no_grad():
            reached = self.after(observation.expand(*actions.shape, -1), actions)
            return self.distance(reached, goal).argmin(dim=-1)

    def after(self, observation: Tensor, action: Tensor) -> Tensor:
        """The observations (..., observation_size) that the forward model expects after actions (...), int64."""
        actions, scale = functional.one_hot(action, self.action_size).float(), self.observation_scale
        return observation + scale.scale * self.critic.change(torch.cat([scale(observation), actions], dim=-1)).float()

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns d(phi(observation), phi(goal)) (...); rows broadcast. Near distances are in steps of the data."""
        return self.critic.head(*self._latents(observation, goal))

    @torch.no_grad()
    def pairwise_distance(self, observations: Tensor, goals: Tensor) -> Tensor:
        """Returns distances (..., N, M) from N observations to M goals, by the head's pairwise kernel."""
        return every_pair(self.critic.head, *self._latents(observations, goals))

    @torch.no_grad()
    def state_distances(self, observations: Tensor) -> Tensor:
        """Returns distances (..., N, N) between N observations, even if goals are not observations."""
        z = self.critic.encoder(self.state_inputs(observations))
        return every_pair(self.critic.head, z, z)

    def _latents(self, observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return self.critic.encoder(self.state_inputs(observation)), self.critic.encoder(self.goal_inputs(goal))

    def _value(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns V, (B,), without gradients."""
        distance = self.distance(observation, goal)
        return -distance if self.config.value == "distance" else self.config.discount**distance


def monotonic_triplets(learned: Tensor, true: Tensor) -> Tensor:
    """Returns the share of triplets (a, b, c), with a truly nearer to c than b is, whose learned distances agree.

    Args:
        learned, true: distances (N, M) from N states (a and b) to M states (c); N * N * M comparisons. A NaN in
            ``true`` leaves the pair out.

    Returns:
        0-d. Equal learned distances count as out of order.

    Raises:
        ValueError: the shapes differ, or there is no such triplet.

    Source: Reichlin et al. 2024, section 3.1, "distance monotonic".
    """
    if learned.dim() != 2 or learned.shape != true.shape:
        sizes = f"{tuple(learned.shape)} and {tuple(true.shape)}"
        raise ValueError(f"monotonic_triplets: learned and true must both be (N, M), got {sizes}.")
    nearer, nearer_as_learned = (distances.T.unsqueeze(-1) < distances.T.unsqueeze(-2) for distances in (true, learned))
    if not nearer.any():
        raise ValueError("monotonic_triplets: all true distances to a state are equal or NaN; give more states.")
    return nearer_as_learned[nearer].float().mean()

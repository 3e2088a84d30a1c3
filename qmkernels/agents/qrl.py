"""QRL, quasimetric reinforcement learning: the whole agent, without environment, buffer or logging.

Source: Wang, Torralba, Isola and Zhang 2023, "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning"
(arXiv 2304.01203), and its public code, called "the code" below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..losses import latent_dynamics, qrl_critic
from ..losses.qrl_critic import QRLCritic
from ..nn import IQE
from ..ops.broadcasting import every_pair
from . import checks, latent_planning, optimisation
from .goal_agent import GoalAgent, expanded
from .latent_planning import largest
from .networks import FourierFeatures, multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

# A constant, because torch.compile of torch 2.6 does not trace named tuples' _fields and _asdict.
_MEASURES = QRLCritic._fields


@dataclass(frozen=True)
class QRLConfig:
    """The defaults are `online`, Fetch tasks with goal relabelling, in the code's numbers.

    Distances and costs are in environment steps, unless costs vary. Learning rates are AdamW's, without weight decay.
    """

    encoder_sizes: tuple[int, ...] = (512, 512)  # hidden layers of the encoder: ReLU, as in all networks
    latent_size: int = 128  # of the latents, on which the dynamics are learned
    projector_sizes: tuple[int, ...] = (512,)  # hidden layers from latents to embeddings
    embedding_size: int = 2048  # of the embeddings, which the head compares
    dim_per_component: int = 32  # values per IQE component; unused by other heads
    dynamics_sizes: tuple[int, ...] = (512, 512)  # hidden layers of the latent dynamics
    actor_sizes: tuple[int, ...] = (512, 512)  # hidden layers of the actor
    fourier_features: int = 0  # sines, and as many cosines, of each place, for encoder and actor; the paper has none
    fourier_inputs: int = 2  # leading values of an observation, and of a goal, that are its place
    fourier_frequencies: tuple[float, float] = (0.5, 12.0)  # lowest and highest, in radians per standardised unit
    num_critics: int = 2  # actor and plans follow their largest distance

    epsilon: float = 0.25  # root mean square, in steps, by which steps may exceed their cost (paper, section 3.2)
    step_cost: float = 1.0  # of every transition, unless costs vary
    variable_cost: bool = False  # a transition costs minus its reward, which must not be positive (paper, section 2)
    softplus_beta: float = 0.1  # how sharply the push fades, in 1 / steps
    softplus_offset: float = 15.0  # distance beyond which the push fades; about the longest shortest path
    initial_multiplier: float = 0.01  # of the constraint, in 1 / steps
    dynamics_weight: float = 0.1  # of the latent dynamics' squared distances

    adaptive_entropy: bool = True  # holds the actor's entropy above minus half the sum of its actions' ranges
    entropy_samples: int = 100  # samples per entropy estimate
    future_goals: bool = True  # the actor also learns to reach the batch's goals, not only other rows' states
    actor_distance_weight: float = 1.0  # of the actor's distances; 0 leaves only behaviour cloning
    behaviour_cloning_weight: float = 0.0  # of minus the log-density of the data's actions, given the batch's goals

    critic_learning_rate: float = 1e-4  # of the critics
    multiplier_learning_rate: float = 1e-2  # of the multiplier before its softplus
    actor_learning_rate: float = 3e-5  # of the actor
    entropy_learning_rate: float = 3e-4  # of the entropy's weight before its exponential, which starts at 1

    def __post_init__(self) -> None:
        free = "step_cost", "softplus_offset", "dynamics_weight", "actor_distance_weight", "behaviour_cloning_weight"
        checks.check_config(self, at_least_zero=(*free, "fourier_features"))

    @classmethod
    def online(cls, **changes: Any) -> QRLConfig:
        """The published online setting (Fetch tasks; batches of 256); ``changes`` override its fields."""
        return cls(**changes)

    @classmethod
    def offline(cls, **changes: Any) -> QRLConfig:
        """The published offline setting (maze2d; batches of 4096, 200,000 updates); ``changes`` override its fields."""
        published = dict(
            encoder_sizes=(1024,) * 3, latent_size=256, projector_sizes=(1024,) * 2, dynamics_sizes=(1024,) * 3,
            actor_sizes=(1024,) * 4, softplus_beta=0.01, softplus_offset=500.0, dynamics_weight=1.0,
            adaptive_entropy=False, future_goals=False, behaviour_cloning_weight=0.05, critic_learning_rate=5e-4,
        )  # fmt: skip
        return cls(**{**published, **changes})


class Critic(nn.Module):
    """Encoder, latent dynamics z' = z + f(z, a), projector, head, and the multiplier of the constraint."""

    def __init__(
        self, input_size: int, action_size: int, config: QRLConfig, head: nn.Module, features: FourierFeatures
    ) -> None:
        super().__init__()
        latent = config.latent_size
        self.encoder = multilayer_perceptron(input_size + features.added, *config.encoder_sizes, latent)
        if features.count:
            self.encoder.insert(0, features)
        self.residual = multilayer_perceptron(latent + action_size, *config.dynamics_sizes, latent, zero_output=True)
        self.projector = multilayer_perceptron(latent, *config.projector_sizes, config.embedding_size)
        self.head = head
        # The inverse of softplus, log(e^m - 1), without overflow.
        initial = config.initial_multiplier
        self.raw_multiplier = nn.Parameter(torch.tensor(initial + math.log(-math.expm1(-initial))))

    def dynamics(self, latent: Tensor, action: Tensor) -> Tensor:
        """Predicts latents after actions: (..., latent_size) and (..., action_size), with equal leading sizes."""
        return latent + self.residual(torch.cat([latent, action.to(latent.dtype)], dim=-1))

    def embed(self, inputs: Tensor) -> Tensor:
        return self.projector(self.encoder(inputs))


class QRL(GoalAgent):
    r"""Learns the quasimetric d(s, g), the cost of the shortest path from s to g, and an actor that follows it.

    Each critic minimises, over transitions (s, a, s') and with lambda maximised (`qmkernels.losses.qrl_critic`)

    .. math:: \overline{\mathrm{softplus}_\beta(o - d(s, g))} + \lambda (\overline{\mathrm{relu}(d(s, s') - c)^2}
              - \epsilon^2) + w\, \overline{d(\hat z', z')^2 + d(z', \hat z')^2} / 2,\quad \hat z' = z + f(z, a)

    where g are other transitions' s'. The actor minimises the critics' largest d(T(z, a), z_g) minus its entropy times
    an adaptive weight, plus behaviour cloning.

    Arguments: those of `GoalAgent`, and ``head``, which makes the head from its input size, default
    ``IQE(size, config.dim_per_component)``, and ``compile``, which runs both losses through ``torch.compile``. A head
    with ``fused_iqe`` trains with one fused kernel, any other with composed ops. With ``goal_size`` every state is
    linked to the goal that it achieves at cost 0 (appendix A). With ``discrete`` the dynamics see actions as one-hot
    rows; there is no actor, and `act` is `plan`.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float, or (B,) int64 with ``discrete``.
        reward: (B,); only with ``variable_cost``.
        achieved_goal: (B, goal_size), what next_observation achieves; only with ``goal_size``.
        goal: (B, goal_size or observation_size), achieved later in the same episode; only if there is an actor, with
            ``future_goals`` or ``behaviour_cloning_weight``.

    Under ``torch.autocast`` distances, densities and losses stay in float32. Nothing here waits for a GPU.

    Example:
        >>> agent = qm.agents.QRL(4, 2, qm.agents.QRLConfig.online(embedding_size=64, dim_per_component=8))
        >>> rows = {name: torch.randn(32, 4) for name in ("observation", "next_observation", "goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(32, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.pairwise_distance(torch.randn(5, 4), torch.randn(7, 4)).shape
        torch.Size([5, 7])
    """

    config_class: ClassVar = QRLConfig
    allows_discrete: ClassVar = True

    def make_networks(self, head: Callable[[int], nn.Module] | None = None, compile: bool = False) -> None:
        config = self.config
        make_head = head or (lambda size: IQE(size, config.dim_per_component))
        self.critics = nn.ModuleList(
            Critic(self.input_size, self.action_size, config, make_head(config.embedding_size), self.critic_features())
            for _ in range(config.num_critics)
        )
        if not self.discrete:
            self.actor = self.make_actor(features=self.actor_features())
            self.actor.raw_entropy_weight = nn.Parameter(torch.zeros(()))
            self.target_entropy = (self.action_low - self.action_high).sum() / 2
        through = torch.compile if compile else lambda loss: loss
        self._critic_loss, self._actor_loss = through(self.critic_loss), through(self.actor_loss)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config, multipliers = self.config, [critic.raw_multiplier for critic in self.critics]
        optimizers = {
            "critics": optimisation.adamw(
                self.critics, config.critic_learning_rate, (multipliers, config.multiplier_learning_rate)
            )
        }
        if self.actor is not None:
            weight = [self.actor.raw_entropy_weight], config.entropy_learning_rate
            optimizers["actor"] = optimisation.adamw(self.actor, config.actor_learning_rate, weight)
        return optimizers

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics, list[tuple[Tensor, Tensor]]]:
        """Returns the sum of the critics' losses, metrics, and per critic the detached latents of states and goals."""
        config, size = self.config, len(batch["observation"])
        rows = [self.state_inputs(batch["observation"]), self.state_inputs(batch["next_observation"])]
        cost: Tensor | float = -batch["reward"] if config.variable_cost else config.step_cost
        if self.goal_size is not None:
            rows.append(self.goal_inputs(batch["achieved_goal"]))
            # The link from a state to its goal is one more transition: in x, in y, and among the other rows' goals.
            cost = cost if isinstance(cost, Tensor) else rows[0].new_full((size,), cost)
            cost = torch.cat([cost, torch.zeros_like(cost)])
        inputs, action = torch.cat(rows), self.action_inputs(batch["action"])
        losses, metrics, latents = [], {}, []
        for number, critic in enumerate(self.critics):
            encoded = critic.encoder(inputs)
            state, following, *goal = encoded.split(size)
            embedded = critic.projector(torch.cat([encoded, critic.dynamics(state, action)]))
            # split, not slices: the gradient of a slice is as large as the whole tensor.
            x, next_y, *goal_y, predicted = embedded.split(size)
            x, y = (torch.cat([x, next_y]), torch.cat([next_y, *goal_y])) if goal_y else (x, next_y)
            result = qrl_critic(
                critic.head, x, y, critic.raw_multiplier, cost=cost, epsilon=config.epsilon,
                softplus_beta=config.softplus_beta, softplus_offset=config.softplus_offset,
            )  # fmt: skip
            dynamics = latent_dynamics(critic.head, predicted, next_y)
            losses.append(result.loss + config.dynamics_weight * dynamics.loss)
            latents.append((state.detach(), (goal[0] if goal else following).detach()))
            for name, value in zip(_MEASURES, result, strict=True):
                metrics[f"critic_{number}/{name}"] = value.detach()
            metrics[f"critic_{number}/dynamics"] = dynamics.loss.detach()
        return torch.stack(losses).sum(), metrics, latents

    def actor_loss(self, batch: Batch, latents: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Metrics]:
        """Returns the actor's loss and metrics, given `critic_loss`'s latents; call it with the critics frozen."""
        config = self.config
        achieved = batch["next_observation"] if self.goal_size is None else batch["achieved_goal"]
        observation, goal = batch["observation"], achieved.roll(1, dims=0)
        if config.future_goals:
            observation, goal = torch.cat([observation, observation]), torch.cat([goal, batch["goal"]])
        policy = self.policy(observation, goal)
        action, distances = policy.sample(), []
        for critic, (state, target) in zip(self.critics, latents, strict=True):
            with torch.no_grad():
                target = target.roll(1, dims=0)
                if config.future_goals:
                    state = torch.cat([state, state])
                    target = torch.cat([target, critic.encoder(self.goal_inputs(batch["goal"]))])
                target = critic.projector(target)
            distances.append(critic.head(critic.projector(critic.dynamics(state, action)), target))
        distance = largest(distances).mean()
        loss, metrics = config.actor_distance_weight * distance, {"actor/distance": distance.detach()}
        if config.adaptive_entropy:
            entropy, weight = policy.entropy(config.entropy_samples).mean(), self.actor.raw_entropy_weight.exp()
            missing = self.target_entropy - entropy
            # The actor minimises this, the weight maximises it.
            loss = loss + weight.detach() * missing - weight * missing.detach()
            # Not |=, which torch.compile of torch 2.6 does not trace.
            metrics.update({"actor/entropy": entropy.detach(), "actor/entropy_weight": weight.detach()})
        if config.behaviour_cloning_weight:
            log_prob = self.policy(batch["observation"], batch["goal"]).log_prob(batch["action"]).mean()
            loss = loss - config.behaviour_cloning_weight * log_prob
            metrics["actor/log_prob"] = log_prob.detach()
        return loss, metrics

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of the critics and their multipliers, then of the actor; returns detached 0-d tensors."""
        goals = ("achieved_goal",) if self.goal_size is not None else ()
        if self.actor is not None and (self.config.future_goals or self.config.behaviour_cloning_weight):
            goals += ("goal",)
        self.check_batch(batch, *goals, **({"reward": ()} if self.config.variable_cost else {}))
        loss, metrics, latents = self._critic_loss(batch)
        optimisation.step(self.optimizers["critics"], loss, self.group)
        if self.actor is not None:
            with optimisation.frozen(self.critics):
                loss, actor_metrics = self._actor_loss(batch, latents)
                optimisation.step(self.optimizers["actor"], loss, self.group)
            metrics = {**metrics, **actor_metrics}
        return metrics

    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = False) -> Tensor:
        """Acts as `GoalAgent.act`; with ``discrete``, returns the actions (...) that `plan` finds best."""
        return self.plan(observation, goal) if self.actor is None else super().act(observation, goal, deterministic)

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """Returns the critics' largest d(observation, goal) (...), in the unit of the costs; rows broadcast."""
        state, target = self.state_inputs(observation), self.goal_inputs(goal)
        return largest(critic.head(critic.embed(state), critic.embed(target)) for critic in self.critics)

    @torch.no_grad()
    def pairwise_distance(self, observations: Tensor, goals: Tensor) -> Tensor:
        """Returns distances (..., N, M) from N observations to M goals, by the head's pairwise kernel."""
        state, target = self.state_inputs(observations), self.goal_inputs(goals)
        return largest(every_pair(critic.head, critic.embed(state), critic.embed(target)) for critic in self.critics)

    @torch.no_grad()
    def plan(
        self, observation: Tensor, goal: Tensor, candidate_actions: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Returns the best candidate, or the first action of MPPI's plan, by `latent_planning.plan`."""
        return latent_planning.plan(self, *expanded(observation, goal), candidate_actions, **options)

    def action_inputs(self, action: Tensor) -> Tensor:
        """Returns the dynamics' input rows for actions."""
        return functional.one_hot(action, self.action_size).float() if self.discrete else action

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "head": repr(self.critics[0].head)}

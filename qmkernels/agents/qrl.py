"""QRL, quasimetric reinforcement learning: the whole agent, without environment, buffer or logging.

Source: Wang, Torralba, Isola and Zhang 2023, "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning"
(arXiv 2304.01203), and its public code, which is called "the code" below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..losses import latent_dynamics, qrl_critic
from ..losses.qrl_critic import QRLCritic
from ..nn import IQE
from ..ops.broadcasting import every_pair
from . import checks, optimisation
from .goal_actor import Actor, TanhNormal, action_range
from .latent_planning import largest, nearest_candidate, plan_cost
from .mppi import MPPI, first_actions
from .networks import Standardise, multilayer_perceptron

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]

# A constant, because torch.compile of torch 2.6 does not trace named tuples' _fields and _asdict.
_MEASURES = QRLCritic._fields


@dataclass(frozen=True)
class QRLConfig:
    """What is published; the defaults are `online`, Fetch tasks with goal relabelling, in the code's numbers.

    Distances and costs are in environment steps, unless costs vary.
    """

    encoder_sizes: tuple[int, ...] = (512, 512)
    """Widths of the encoder's hidden layers (ReLU, as in all networks). Source: the code."""
    latent_size: int = 128
    """Size of the latents, in which the dynamics are learned. Source: the code."""
    projector_sizes: tuple[int, ...] = (512,)
    """Widths of the projector's hidden layers, from latents to what the head compares. Source: the code."""
    embedding_size: int = 2048
    """Size of what the head compares. Source: the code."""
    dim_per_component: int = 32
    """Values in an IQE component: 64 components. Source: the code. No meaning for another head."""
    dynamics_sizes: tuple[int, ...] = (512, 512)
    """Widths of the latent dynamics' hidden layers. Source: the code."""
    actor_sizes: tuple[int, ...] = (512, 512)
    """Widths of the actor's hidden layers. Source: the code."""
    num_critics: int = 2
    """Critics; actor and plans go by the largest of their distances. Source: the code."""

    epsilon: float = 0.25
    """Root mean square in steps by which a step's distance may exceed its cost. Source: paper, section 3.2."""
    step_cost: float = 1.0
    """Cost of every transition, unless costs vary. Source: the code."""
    variable_cost: bool = False
    """The cost of a transition is minus its reward, which must not be positive. Source: paper, section 2."""
    softplus_beta: float = 0.1
    """Sharpness of the push's fading, 1 / steps. Source: the code."""
    softplus_offset: float = 15.0
    """Distance in steps past which the push fades; of the order of the longest way. Source: the code."""
    initial_multiplier: float = 0.01
    """The constraint's multiplier at the start, in 1 / steps. Source: the code."""
    dynamics_weight: float = 0.1
    """Weight of the latent dynamics' squared distances. Source: the code."""

    adaptive_entropy: bool = True
    """The actor's entropy is held above minus half the sum of its actions' ranges, in nats. Source: the code."""
    entropy_samples: int = 100
    """Samples for an entropy. Source: the code."""
    future_goals: bool = True
    """The actor learns to reach the batch's goals too, not only other transitions' states. Source: the code."""
    actor_distance_weight: float = 1.0
    """Weight of the actor's distances; 0 with the next leaves behaviour cloning alone. Source: the code."""
    behaviour_cloning_weight: float = 0.0
    """Weight of minus the log-density of the data's actions towards the batch's goals. Source: the code."""

    critic_learning_rate: float = 1e-4
    """AdamW's, as all, without weight decay. Source: the code."""
    multiplier_learning_rate: float = 1e-2
    """Of the multiplier before its softplus. Source: the code."""
    actor_learning_rate: float = 3e-5
    """Source: the code."""
    entropy_learning_rate: float = 3e-4
    """Of the entropy's weight before its exponential, which starts at 1. Source: the code."""

    def __post_init__(self) -> None:
        checks.check_config(
            self,
            positive=(
                "latent_size", "embedding_size", "dim_per_component", "num_critics", "epsilon", "softplus_beta",
                "initial_multiplier", "entropy_samples", "critic_learning_rate", "multiplier_learning_rate",
                "actor_learning_rate", "entropy_learning_rate",
            ),
            at_least_zero=("step_cost", "dynamics_weight", "actor_distance_weight", "behaviour_cloning_weight"),
        )  # fmt: skip

    @classmethod
    def online(cls, **changes: Any) -> QRLConfig:
        """The published online setting (FetchReach, Push and Slide; batches of 256), with ``changes`` to it."""
        return cls(**changes)

    @classmethod
    def offline(cls, **changes: Any) -> QRLConfig:
        """The published offline setting (maze2d; batches of 4096, 200,000 updates), with ``changes`` to it."""
        published = dict(
            encoder_sizes=(1024,) * 3, latent_size=256, projector_sizes=(1024,) * 2, dynamics_sizes=(1024,) * 3,
            actor_sizes=(1024,) * 4, softplus_beta=0.01, softplus_offset=500.0, dynamics_weight=1.0,
            adaptive_entropy=False, future_goals=False, behaviour_cloning_weight=0.05, critic_learning_rate=5e-4,
        )  # fmt: skip
        return cls(**{**published, **changes})


class Critic(nn.Module):
    """Encoder, latent dynamics z' = z + f(z, a), projector, head, and the multiplier of the constraint."""

    def __init__(self, input_size: int, action_size: int, config: QRLConfig, head: nn.Module) -> None:
        super().__init__()
        latent = config.latent_size
        self.encoder = multilayer_perceptron(input_size, *config.encoder_sizes, latent)
        self.residual = multilayer_perceptron(latent + action_size, *config.dynamics_sizes, latent, zero_output=True)
        self.projector = multilayer_perceptron(latent, *config.projector_sizes, config.embedding_size)
        self.head = head
        # The inverse of softplus, log(e^m - 1), in a form that does not overflow.
        initial = config.initial_multiplier
        self.raw_multiplier = nn.Parameter(torch.tensor(initial + math.log(-math.expm1(-initial))))

    def dynamics(self, latent: Tensor, action: Tensor) -> Tensor:
        """Latents after actions: (..., latent_size) and (..., action_size), of the same leading sizes."""
        return latent + self.residual(torch.cat([latent, action.to(latent.dtype)], dim=-1))

    def embed(self, inputs: Tensor) -> Tensor:
        return self.projector(self.encoder(inputs))


class QRL:
    r"""Learns the quasimetric d(s, g), the cost of the shortest way from s to g, and an actor that follows it.

    Per critic, from transitions (s, a, s') and with the multiplier maximised (`qmkernels.losses.qrl_critic`)

    .. math:: \overline{\mathrm{softplus}_\beta(o - d(s, g))} + \lambda (\overline{\mathrm{relu}(d(s, s') - c)^2}
              - \epsilon^2) + w\, \overline{d(\hat z', z')^2 + d(z', \hat z')^2} / 2,\quad \hat z' = z + f(z, a)

    where g are other transitions' s'. The actor minimises the largest of the critics' d(T(z, a), z_g), less its
    entropy times an adaptive weight, plus behaviour cloning.

    Args:
        observation_size: values in an observation.
        action_size: values in an action; with ``discrete``, the number of actions.
        config: default `QRLConfig.online()`.
        goal_size: None: goals are observations. Otherwise goals have this many values and stand for sets, all
            states that achieve them: the networks' inputs have room for both and an indicator, and every state is
            linked to the goal that it achieves at cost 0 (paper, appendix A).
        discrete: actions are integers, seen by the dynamics as one-hot rows; there is no actor, and `act` is `plan`.
        action_low, action_high: the actions' range, numbers or one a value. Default -1 and 1.
        head: makes the head from its input size; default ``IQE(size, config.dim_per_component)``. A head with
            ``fused_iqe`` trains by one kernel, any other by compositions.
        device: of the networks. Default: torch's.
        compile: runs both losses through ``torch.compile``.
        group: processes that train together, of `torch.distributed`, as DDP does: the networks of the first are sent
            to all, and gradients are averaged over all before each step, of batches that each draws for itself.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float, or (B,) int64 with ``discrete``.
        reward: (B,), with ``variable_cost`` alone.
        achieved_goal: (B, goal_size), what next_observation achieves, with ``goal_size`` alone.
        goal: (B, goal_size or observation_size), achieved later in the same episode; with ``future_goals`` or
            ``behaviour_cloning_weight`` alone, and an actor.

    Mixed precision: ``with torch.autocast("cuda", torch.bfloat16): agent.update(batch)``; distances, densities and
    losses stay in float32. Nothing here waits for a GPU.

    Example:
        >>> agent = qm.agents.QRL(4, 2, qm.agents.QRLConfig.online(embedding_size=64, dim_per_component=8))
        >>> rows = {name: torch.randn(32, 4) for name in ("observation", "next_observation", "goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(32, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
        >>> agent.pairwise_distance(torch.randn(5, 4), torch.randn(7, 4)).shape
        torch.Size([5, 7])
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: QRLConfig | None = None,
        *,
        goal_size: int | None = None,
        discrete: bool = False,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        head: Callable[[int], nn.Module] | None = None,
        device: torch.device | str | None = None,
        compile: bool = False,
        group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        self.config = config = config or QRLConfig.online()
        self.observation_size, self.action_size = observation_size, action_size
        self.goal_size, self.discrete, self.group = goal_size, discrete, group
        make_head = head or (lambda size: IQE(size, config.dim_per_component))
        input_size = observation_size if goal_size is None else observation_size + goal_size + 1
        self.critics = nn.ModuleList(
            Critic(input_size, action_size, config, make_head(config.embedding_size)) for _ in range(config.num_critics)
        )
        self.actor = None
        if not discrete:
            low, high = action_range("QRL", action_size, action_low, action_high)
            sizes = observation_size + (observation_size if goal_size is None else goal_size)
            self.actor = Actor(sizes, low, high, config.actor_sizes)
            self.target_entropy = -float((high - low).sum()) / 2
        self.observation_scale = self.goal_scale = Standardise(observation_size)
        if goal_size is not None:
            self.goal_scale = Standardise(goal_size)
        scales = {"observation_scale": self.observation_scale, "goal_scale": self.goal_scale}
        self.networks = nn.ModuleDict({"critics": self.critics, **scales})
        if self.actor is not None:
            self.networks["actor"] = self.actor
        self.networks.to(device)
        self.optimizers = self._make_optimizers()
        self._critic_loss, self._actor_loss = self.critic_loss, self.actor_loss
        if compile:
            self._critic_loss, self._actor_loss = torch.compile(self.critic_loss), torch.compile(self.actor_loss)
        optimisation.send(group, self.networks)

    def standardise(self, observation: Tensor, goal: Tensor | None = None) -> None:
        """From now on the networks see observations and goals less the mean of these rows, over their deviation.

        Once, before the first update, with rows of the data: (N, observation_size) and, with ``goal_size`` alone,
        (N, goal_size). Where coordinates differ in size, or vary little about a large mean, as in Fetch tasks, nothing
        is learned without. (Not in the code, which feeds them as they are.) A group takes those of its first process.
        """
        self.observation_scale.fit(observation)
        if self.goal_scale is not self.observation_scale:
            if goal is None:
                raise ValueError("QRL.standardise: give goals too; they are not observations here.")
            self.goal_scale.fit(goal)
        optimisation.send(self.group, self.observation_scale, self.goal_scale)

    def update(self, batch: Batch) -> Metrics:
        """One step of the critics and their multipliers, then of the actor; returns 0-d tensors, detached."""
        self._check_batch(batch)
        loss, metrics, latents = self._critic_loss(batch)
        optimisation.step(self.optimizers["critics"], loss, self.group)
        if self.actor is not None:
            with optimisation.frozen(self.critics):
                loss, actor_metrics = self._actor_loss(batch, latents)
                optimisation.step(self.optimizers["actor"], loss, self.group)
            metrics = {**metrics, **actor_metrics}
        return metrics

    @torch.no_grad()
    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = False) -> Tensor:
        """Actions towards goals: (..., action_size) of (..., observation_size) and (..., goal_size).

        A sample of the actor, or its mode where ``deterministic``. With ``discrete`` the integers (...) that `plan`
        finds best, in both cases.
        """
        if self.actor is None:
            return self.plan(observation, goal)
        policy = self._policy(*_expanded(observation, goal))
        return policy.mode if deterministic else policy.sample()

    @torch.no_grad()
    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """d(observation, goal) (...), the largest of the critics', in the units of the costs; rows broadcast."""
        state, target = self.state_inputs(observation), self.goal_inputs(goal)
        return largest(critic.head(critic.embed(state), critic.embed(target)) for critic in self.critics)

    @torch.no_grad()
    def pairwise_distance(self, observations: Tensor, goals: Tensor) -> Tensor:
        """Distances (..., N, M) from each of N observations to each of M goals, by the head's pairwise kernel."""
        state, target = self.state_inputs(observations), self.goal_inputs(goals)
        return largest(every_pair(critic.head, critic.embed(state), critic.embed(target)) for critic in self.critics)

    @torch.no_grad()
    def plan(
        self,
        observation: Tensor,
        goal: Tensor,
        candidate_actions: Tensor | None = None,
        *,
        mppi: MPPI | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Of candidate actions the one after which the goal is nearest, by the latent dynamics; or the first action of
        a plan of several.

        Args:
            observation, goal: (..., size); leading sizes broadcast.
            candidate_actions: (N, action_size), or (..., N, action_size) with candidates of each row's own; with
                ``discrete``, (N,) or (..., N) int64, and None stands for all.
            mppi: plans so instead of by candidates; not with ``discrete``. A plan costs the sum of the distances to the
                goal after each of its actions, all but the last times ``step_weight``.
            generator: of MPPI's noise, on the agent's device: the same state gives the same actions.

        Returns:
            (..., action_size), or (...) int64 with ``discrete``: the first of the best.
        """
        observation, goal = _expanded(observation, goal)
        if mppi is not None:
            if self.discrete or candidate_actions is not None:
                raise ValueError("QRL.plan: MPPI is for continuous actions, and takes no candidate_actions.")
            cost = plan_cost(self.critics, self.state_inputs(observation), self.goal_inputs(goal), mppi)
            return first_actions(
                cost, self.actor.centre, self.actor.half_range, observation.shape[:-1], mppi, generator
            )
        if candidate_actions is None:
            if not self.discrete:
                raise ValueError("QRL.plan: give candidate_actions, of which there is no finite set, or mppi.")
            candidate_actions = torch.arange(self.action_size, device=observation.device)
        inner = 1 if self.discrete else 2
        candidates = candidate_actions.expand(*observation.shape[:-1], *candidate_actions.shape[-inner:])
        state, target = self.state_inputs(observation), self.goal_inputs(goal)
        best = nearest_candidate(self.critics, state, target, self.action_inputs(candidates))
        if self.discrete:
            return candidates.gather(-1, best.unsqueeze(-1)).squeeze(-1)
        return candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, self.action_size)).squeeze(-2)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics, list[tuple[Tensor, Tensor]]]:
        """The critics' losses added; metrics; of each critic the detached latents of states and of their goals."""
        config, size = self.config, len(batch["observation"])
        rows = [self.state_inputs(batch["observation"]), self.state_inputs(batch["next_observation"])]
        cost: Tensor | float = -batch["reward"] if config.variable_cost else config.step_cost
        if self.goal_size is not None:
            rows.append(self.goal_inputs(batch["achieved_goal"]))
            # A link to the goal is a transition of its own: in x, in y, and among the goals of others.
            cost = cost if isinstance(cost, Tensor) else rows[0].new_full((size,), cost)
            cost = torch.cat([cost, torch.zeros_like(cost)])
        inputs, action = torch.cat(rows), self.action_inputs(batch["action"])
        losses, metrics, latents = [], {}, []
        for number, critic in enumerate(self.critics):
            encoded = critic.encoder(inputs)
            state, following, *goal = encoded.split(size)
            embedded = critic.projector(torch.cat([encoded, critic.dynamics(state, action)]))
            # Parts, not slices: a slice's gradient is as large as the whole.
            x, next_y, *goal_y, predicted = embedded.split(size)
            x, y = (torch.cat([x, next_y]), torch.cat([next_y, *goal_y])) if goal_y else (x, next_y)
            found = qrl_critic(
                critic.head, x, y, critic.raw_multiplier, cost=cost, epsilon=config.epsilon,
                softplus_beta=config.softplus_beta, softplus_offset=config.softplus_offset,
            )  # fmt: skip
            dynamics = latent_dynamics(critic.head, predicted, next_y)
            losses.append(found.loss + config.dynamics_weight * dynamics.loss)
            latents.append((state.detach(), (goal[0] if goal else following).detach()))
            for name, value in zip(_MEASURES, found, strict=True):
                metrics[f"critic_{number}/{name}"] = value.detach()
            metrics[f"critic_{number}/dynamics"] = dynamics.loss.detach()
        return torch.stack(losses).sum(), metrics, latents

    def actor_loss(self, batch: Batch, latents: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Metrics]:
        """The actor's loss and metrics, given what `critic_loss` returned; gradients of critics are of no use."""
        config = self.config
        achieved = batch["next_observation"] if self.goal_size is None else batch["achieved_goal"]
        observation, goal = batch["observation"], achieved.roll(1, dims=0)
        if config.future_goals:
            observation, goal = torch.cat([observation, observation]), torch.cat([goal, batch["goal"]])
        policy = self._policy(observation, goal)
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
            # Minimised over the actor, maximised over the weight.
            loss = loss + weight.detach() * missing - weight * missing.detach()
            metrics |= {"actor/entropy": entropy.detach(), "actor/entropy_weight": weight.detach()}
        if config.behaviour_cloning_weight:
            log_prob = self._policy(batch["observation"], batch["goal"]).log_prob(batch["action"]).mean()
            loss = loss - config.behaviour_cloning_weight * log_prob
            metrics["actor/log_prob"] = log_prob.detach()
        return loss, metrics

    def state_inputs(self, observation: Tensor) -> Tensor:
        """The critics' input rows of states."""
        observation = self.observation_scale(observation)
        return observation if self.goal_size is None else functional.pad(observation, (0, self.goal_size + 1))

    def goal_inputs(self, goal: Tensor) -> Tensor:
        """The critics' input rows of goals."""
        goal = self.goal_scale(goal)
        if self.goal_size is None:
            return goal
        return functional.pad(functional.pad(goal, (self.observation_size, 0)), (0, 1), value=1.0)

    def action_inputs(self, action: Tensor) -> Tensor:
        """The dynamics' input rows of actions."""
        return functional.one_hot(action, self.action_size).float() if self.discrete else action

    def state_dict(self) -> dict[str, Any]:
        """Everything that `update` changes, and what the agent was made of."""
        return {
            "made_of": self._made_of(),
            "networks": self.networks.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the agent was that gave ``state``; ValueError where that was made of something else."""
        checks.check_made_of("QRL", self._made_of(), state.get("made_of", {}))
        self.networks.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def _made_of(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("observation_size", "action_size", "goal_size", "discrete")}
        bounds = {}
        if self.actor is not None:
            low, high = self.actor.centre - self.actor.half_range, self.actor.centre + self.actor.half_range
            bounds = {"action_low": low.tolist(), "action_high": high.tolist()}
        return {**sizes, **bounds, **checks.plain(self.config), "head": repr(self.critics[0].head)}

    def _make_optimizers(self) -> dict[str, torch.optim.AdamW]:
        config, multipliers = self.config, [critic.raw_multiplier for critic in self.critics]
        made = {
            "critics": optimisation.adamw(
                (optimisation.without(self.critics, multipliers), config.critic_learning_rate),
                (multipliers, config.multiplier_learning_rate),
            )
        }
        if self.actor is not None:
            weight = [self.actor.raw_entropy_weight]
            made["actor"] = optimisation.adamw(
                (optimisation.without(self.actor, weight), config.actor_learning_rate),
                (weight, config.entropy_learning_rate),
            )
        return made

    def _policy(self, observation: Tensor, goal: Tensor) -> TanhNormal:
        return self.actor(self.observation_scale(observation), self.goal_scale(goal))

    def _check_batch(self, batch: Batch) -> None:
        """Names and shapes, before any network runs."""
        goal_size = self.observation_size if self.goal_size is None else self.goal_size
        wanted = {"observation": (self.observation_size,), "next_observation": (self.observation_size,)}
        wanted["action"] = () if self.discrete else (self.action_size,)
        if self.config.variable_cost:
            wanted["reward"] = ()
        if self.goal_size is not None:
            wanted["achieved_goal"] = (goal_size,)
        if self.actor is not None and (self.config.future_goals or self.config.behaviour_cloning_weight):
            wanted["goal"] = (goal_size,)
        checks.check_batch("QRL", batch, wanted)


def _expanded(observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    leading = torch.broadcast_shapes(observation.shape[:-1], goal.shape[:-1])
    return observation.expand(*leading, -1), goal.expand(*leading, -1)

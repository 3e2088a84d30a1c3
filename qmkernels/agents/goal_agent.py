"""What agents that reach goals share: how they are made, the rows of their networks, and acting."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import checks, optimisation
from .goal_actor import Actor, Policy, action_range
from .networks import Standardise
from .trained import TrainedAgent


class GoalAgent(TrainedAgent):
    """A subclass gives ``config_class``, `make_networks` and ``update``.

    Goals are observations, or with ``goal_size`` vectors of their own, which stand for the sets of states that achieve
    them: then rows of the critics have room for both and an indicator (Wang et al. 2023, appendix A).
    """

    config_class: ClassVar[type]
    allows_discrete: ClassVar[bool] = False
    critic: nn.Module | None = None
    actor: Actor | None = None

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: Any = None,
        *,
        goal_size: int | None = None,
        discrete: bool = False,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        device: torch.device | str | None = None,
        group: optimisation.Group | None = None,
        **networks: Any,
    ) -> None:
        """Makes the networks and their optimizers.

        Args:
            observation_size: values in an observation.
            action_size: values in an action; with ``discrete``, the number of actions.
            config: default ``config_class()``, which is as published.
            goal_size: values in a goal; None: goals are observations.
            discrete: actions are integers from 0. Not every agent allows them.
            action_low, action_high: the actions' range, numbers or one a value.
            device: of the networks. Default: torch's.
            group: processes that train together, of `torch.distributed`: gradients are averaged before each step.
            networks: arguments of the agent's own, which its `make_networks` takes.

        Raises:
            ValueError: the actions' range is not finite, or they are discrete and the agent does not allow that.
        """
        name = type(self).__name__
        if discrete and not self.allows_discrete:
            raise ValueError(f"{name}: actions must be vectors in a range, got discrete ones.")
        self.observation_size, self.action_size = observation_size, action_size
        self.config = self.config_class() if config is None else config
        self.goal_size, self.discrete, self.group = goal_size, discrete, group
        self.input_size = observation_size if goal_size is None else observation_size + goal_size + 1
        self.actor_input_size = observation_size + (observation_size if goal_size is None else goal_size)
        self.action_low, self.action_high = None, None
        if not discrete:
            self.action_low, self.action_high = action_range(name, action_size, action_low, action_high)
        self.observation_scale = self.goal_scale = Standardise(observation_size)
        if goal_size is not None:
            self.goal_scale = Standardise(goal_size)
        self.make_networks(**networks)
        made = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}
        self.has_networks(device, **made)
        self.optimizers = self.make_optimizers()

    def make_networks(self) -> None:
        """Sets ``critic``, ``actor`` or whatever else is trained, as attributes: `networks` has all by their names."""
        raise NotImplementedError

    def make_actor(self, **how: Any) -> Actor:
        """Of the configuration's ``actor_sizes``; ``how``: as `Actor` takes it."""
        return Actor(self.actor_input_size, self.action_low, self.action_high, self.config.actor_sizes, **how)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Of the critic and of the actor, at the configuration's ``critic_learning_rate``, ``actor_learning_rate``."""
        trained = {"critic": self.critic, "actor": self.actor}
        return {
            name: optimisation.adamw(network, getattr(self.config, f"{name}_learning_rate"))
            for name, network in trained.items()
            if network is not None
        }

    def standardise(self, observation: Tensor, goal: Tensor | None = None) -> None:
        """From now on the networks see observations and goals less the mean of these rows, over their deviation.

        Once, before the first update, with rows of the data: (N, observation_size) and, with ``goal_size`` alone,
        (N, goal_size). Where coordinates differ in size, or vary little about a large mean, as in Fetch tasks, nothing
        is learned without. (No published code does so.) A group takes those of its first process.
        """
        self.observation_scale.fit(observation)
        if self.goal_scale is not self.observation_scale:
            if goal is None:
                name = type(self).__name__
                raise ValueError(f"{name}.standardise: give goals too; they are not observations here.")
            self.goal_scale.fit(goal)
        optimisation.send(self.group, self.observation_scale, self.goal_scale)

    def state_inputs(self, observation: Tensor) -> Tensor:
        """The critics' rows of states, (..., input_size)."""
        observation = self.observation_scale(observation)
        return observation if self.goal_size is None else functional.pad(observation, (0, self.goal_size + 1))

    def goal_inputs(self, goal: Tensor) -> Tensor:
        """The critics' rows of goals, (..., input_size)."""
        goal = self.goal_scale(goal)
        if self.goal_size is None:
            return goal
        return functional.pad(functional.pad(goal, (self.observation_size, 0)), (0, 1), value=1.0)

    def policy(self, observation: Tensor, goal: Tensor) -> Policy:
        """Of the actor, for rows of the same leading sizes."""
        return self.actor(self.observation_scale(observation), self.goal_scale(goal))

    @torch.no_grad()
    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = False) -> Tensor:
        """Actions towards goals: (..., action_size) of (..., observation_size) and (..., goal_size), which broadcast.

        A sample of the actor, or its mode where ``deterministic``.
        """
        policy = self.policy(*expanded(observation, goal))
        return policy.mode if deterministic else policy.sample()

    def check_batch(self, batch: dict[str, Tensor], *goals: str, **more: tuple[int, ...]) -> None:
        """ValueError unless the batch has transitions, the named goals, and rows of the shapes in ``more``."""
        size = (self.observation_size,)
        wanted = {"observation": size, "next_observation": size, "action": () if self.discrete else (self.action_size,)}
        of_goal = size if self.goal_size is None else (self.goal_size,)
        checks.check_batch(type(self).__name__, batch, {**wanted, **more, **dict.fromkeys(goals, of_goal)})

    def made_of(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("observation_size", "action_size", "goal_size", "discrete")}
        bounds = {}
        if not self.discrete:
            bounds = {"action_low": self.action_low.tolist(), "action_high": self.action_high.tolist()}
        return {**sizes, **bounds, **checks.plain(self.config)}


def expanded(observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the leading sizes to which they broadcast."""
    leading = torch.broadcast_shapes(observation.shape[:-1], goal.shape[:-1])
    return observation.expand(*leading, -1), goal.expand(*leading, -1)

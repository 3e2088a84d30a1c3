"""What goal-reaching agents share: their networks' inputs, and acting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import checks, optimisation
from .goal_actor import Actor, Policy
from .networks import FourierFeatures, Standardise
from .trained import TrainedAgent


class GoalAgent(TrainedAgent):
    """An agent that acts towards goals.

    Goals are observations, or with ``goal_size`` vectors of their own, which stand for the sets of states that achieve
    them: the critics' input rows then hold both and an indicator (Wang et al. 2023, appendix A).
    """

    actor: Actor | None = None

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: Any = None,
        *,
        goal_size: int | None = None,
        **options: Any,
    ) -> None:
        """Makes the networks and their optimizers.

        Args:
            observation_size, action_size, config: as for `TrainedAgent`.
            goal_size: values in a goal; None: goals are observations.
            options: the other arguments of `TrainedAgent`, and the agent's own.
        """
        self.goal_size = goal_size
        self.input_size = observation_size if goal_size is None else observation_size + goal_size + 1
        self.actor_input_size = observation_size + (observation_size if goal_size is None else goal_size)
        self.observation_scale = self.goal_scale = Standardise(observation_size)
        if goal_size is not None:
            self.goal_scale = Standardise(goal_size)
        super().__init__(observation_size, action_size, config, **options)

    def make_actor(self, **options: Any) -> Actor:
        """Makes an actor with the configuration's ``actor_sizes``; ``options``: arguments of `Actor`."""
        return Actor(self.actor_input_size, self.action_low, self.action_high, self.config.actor_sizes, **options)

    def critic_features(self) -> FourierFeatures:
        """Draws the features of the places in a critic's input row, by the configuration's ``fourier_...``."""
        return self._features((0,) if self.goal_size is None else (0, self.observation_size))

    def actor_features(self) -> FourierFeatures:
        """Draws the features of the two places in the actor's input row."""
        return self._features((0, self.observation_size))

    def _features(self, starts: tuple[int, ...]) -> FourierFeatures:
        config, sizes = self.config, (self.observation_size, self.goal_size or self.observation_size)
        if config.fourier_features and config.fourier_inputs > min(sizes):
            name = type(self).__name__
            raise ValueError(f"{name}: fourier_inputs must be at most {min(sizes)}, got {config.fourier_inputs}.")
        return FourierFeatures(starts, config.fourier_inputs, config.fourier_features, config.fourier_frequencies)

    def standardise(self, observation: Tensor, goal: Tensor | None = None) -> None:
        """Standardises the networks' observations and goals by the mean and deviation of these rows.

        Call it once, before the first update, with rows of the data: (N, observation_size) and, only with
        ``goal_size``, (N, goal_size). Where coordinates differ in size, or vary little about a large mean, as in Fetch
        tasks, nothing is learned without it. (No published code does so.) A group uses its first process's rows.
        """
        self.observation_scale.fit(observation)
        if self.goal_scale is not self.observation_scale:
            if goal is None:
                name = type(self).__name__
                raise ValueError(f"{name}.standardise: give goals too; they are not observations here.")
            self.goal_scale.fit(goal)
        optimisation.send(self.group, self.observation_scale, self.goal_scale)

    def state_inputs(self, observation: Tensor) -> Tensor:
        """Returns the critics' input rows for states, (..., input_size)."""
        observation = self.observation_scale(observation)
        return observation if self.goal_size is None else functional.pad(observation, (0, self.goal_size + 1))

    def goal_inputs(self, goal: Tensor) -> Tensor:
        """Returns the critics' input rows for goals, (..., input_size)."""
        goal = self.goal_scale(goal)
        if self.goal_size is None:
            return goal
        return functional.pad(functional.pad(goal, (self.observation_size, 0)), (0, 1), value=1.0)

    def policy(self, observation: Tensor, goal: Tensor) -> Policy:
        """Returns the actor's policy for rows with equal leading sizes."""
        return self.actor(self.observation_scale(observation), self.goal_scale(goal))

    @torch.no_grad()
    def act(self, observation: Tensor, goal: Tensor, deterministic: bool = False) -> Tensor:
        """Returns actions (..., action_size) from (..., observation_size) towards (..., goal_size), which broadcast.

        They are samples of the actor's policy, or its modes if ``deterministic``.
        """
        policy = self.policy(*expanded(observation, goal))
        return policy.mode if deterministic else policy.sample()

    def check_batch(self, batch: dict[str, Tensor], *goals: str, **more: tuple[int, ...]) -> None:
        """Raises ValueError unless the batch has transitions, the named goals, and rows of the shapes in ``more``."""
        size = (self.observation_size,)
        transition = {
            "observation": size,
            "next_observation": size,
            "action": () if self.discrete else (self.action_size,),
        }
        goal_shape = size if self.goal_size is None else (self.goal_size,)
        checks.check_batch(type(self).__name__, batch, {**transition, **more, **dict.fromkeys(goals, goal_shape)})

    def made_of(self) -> dict[str, Any]:
        return {**super().made_of(), "goal_size": self.goal_size}


def expanded(observation: Tensor, goal: Tensor, observation_dims: int = 1) -> tuple[Tensor, Tensor]:
    """Returns both, broadcast to common leading sizes; ``observation_dims``: dimensions of an observation."""
    shape = observation.shape[observation.dim() - observation_dims :]
    leading = torch.broadcast_shapes(observation.shape[: observation.dim() - observation_dims], goal.shape[:-1])
    return observation.expand(*leading, *shape), goal.expand(*leading, -1)

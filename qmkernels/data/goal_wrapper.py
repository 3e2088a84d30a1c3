"""Goals for environments that have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy

from .spaces import GOAL_KEYS


class GoalWrapper(gymnasium.Wrapper):
    """Adds goals to an environment whose observations are vectors, a new one in each episode.

    Observations become a Dict of ``observation``, ``achieved_goal`` and ``desired_goal``, as in a GoalEnv. A step whose
    achieved goal is close enough to the desired one is a success: ``info["is_success"]`` is True and the reward 0;
    otherwise they are False and -1. A success does not end an episode.

    Args:
        environment: with observations in a Box of one dimension, (D,).
        success: the largest Euclidean distance between goals, in their units, that counts as a success; or a function
            from the achieved and the desired goal, (G,) each, to bool.
        goal_of: a function from an observation (D,) to the goal that it achieves, (G,). Default: the observation.
        low, high: bounds between which desired goals are uniform, numbers or (G,). Default, only without ``goal_of``:
            the bounds of the observations.

    ``reset(options={"desired_goal": goal})`` sets the goal of an episode. Otherwise `draw_goal` draws it from the
    environment's generator, so that the seed of a reset determines the goal too.

    Raises ValueError if observations are not vectors, bounds are missing or not finite, or ``success`` is negative.

    Example:
        >>> import gymnasium
        >>> import numpy
        >>> def angle_and_speed(observation):
        ...     return numpy.array([numpy.arctan2(observation[1], observation[0]), observation[2]])
        >>> pendulum = gymnasium.make("Pendulum-v1")
        >>> pendulum = qm.data.GoalWrapper(pendulum, 0.3, goal_of=angle_and_speed, low=[-3, -1], high=[3, 1])
        >>> seen, _ = pendulum.reset(seed=0, options={"desired_goal": [0.0, 0.0]})
        >>> {name: value.shape for name, value in seen.items()}
        {'observation': (3,), 'achieved_goal': (2,), 'desired_goal': (2,)}
        >>> _, reward, _, _, info = pendulum.step(numpy.array([0.5]))
        >>> reward, info["is_success"]
        (-1.0, False)
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        success: float | Callable[[numpy.ndarray, numpy.ndarray], bool],
        *,
        goal_of: Callable[[numpy.ndarray], Any] | None = None,
        low: Any = None,
        high: Any = None,
    ) -> None:
        super().__init__(environment)
        space = environment.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"GoalWrapper: observations must be vectors, got {space}. Put gymnasium.wrappers.FlattenObservation "
                "around the environment first."
            )
        if goal_of is None:
            low, high = space.low if low is None else low, space.high if high is None else high
        if low is None or high is None or not numpy.isfinite([low, high]).all():
            raise ValueError(
                f"GoalWrapper: goals are drawn between low and high, which must be finite, got {low} and {high}. Give "
                "both."
            )
        if not callable(success) and not success >= 0:
            raise ValueError(f"GoalWrapper: success must be a distance of at least 0 or a function, got {success}.")
        self._success, self._goal_of = success, goal_of
        size = self.goal_of(space.sample()).shape
        self._low, self._high = (numpy.broadcast_to(numpy.asarray(bound, numpy.float64), size) for bound in (low, high))
        goals = gymnasium.spaces.Box(-numpy.inf, numpy.inf, size, numpy.float64)
        self.observation_space = gymnasium.spaces.Dict(dict(zip(GOAL_KEYS, (space, goals, goals), strict=True)))
        self.desired_goal = self._low

    def goal_of(self, observation: numpy.ndarray) -> numpy.ndarray:
        """Returns the goal that an observation achieves, (G,)."""
        goal = observation if self._goal_of is None else self._goal_of(observation)
        return numpy.asarray(goal, numpy.float64)

    def draw_goal(self) -> numpy.ndarray:
        """Returns a desired goal, (G,), for a new episode; a subclass may override it."""
        return self.np_random.uniform(self._low, self._high)

    def is_success(self, achieved: numpy.ndarray, desired: numpy.ndarray) -> bool:
        """Returns whether the achieved goal, (G,), counts as the desired one."""
        if callable(self._success):
            return bool(self._success(achieved, desired))
        return bool(numpy.linalg.norm(achieved - desired) <= self._success)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        others = {name: value for name, value in (options or {}).items() if name != "desired_goal"}
        observation, info = self.env.reset(seed=seed, options=others or None)
        goal = (options or {}).get("desired_goal")
        self.desired_goal = self.draw_goal() if goal is None else numpy.asarray(goal, numpy.float64)
        return self._with_goals(observation), info

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        observation, _, terminated, truncated, info = self.env.step(action)
        observations = self._with_goals(observation)
        success = self.is_success(observations["achieved_goal"], observations["desired_goal"])
        return observations, float(success) - 1.0, terminated, truncated, {**info, "is_success": success}

    def _with_goals(self, observation: numpy.ndarray) -> dict[str, numpy.ndarray]:
        goals = self.goal_of(observation), self.desired_goal.copy()
        return dict(zip(GOAL_KEYS, (observation, *goals), strict=True))

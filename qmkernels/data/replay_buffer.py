"""Online transitions of an environment with goals."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from .goals import Goals, sample_goals
from .spaces import GOAL_KEYS, check_actions, check_goal_environment
from .transitions import Arrays, batch_of

_OPEN = numpy.iinfo(numpy.int64).max


class ReplayBuffer:
    """The newest ``capacity`` transitions of one environment, step after step, with goals drawn anew in every batch.

    Args:
        environment: with a Dict of observation, achieved_goal and desired_goal as its observation space.
        capacity: in transitions; memory for all of them is taken at once.

    Transitions are numbered as they come, and a number's place is its remainder by the capacity. So an episode of
    which the oldest part was overwritten keeps its later part, and what comes after a transition is still there.
    """

    def __init__(self, environment: Any, capacity: int) -> None:
        check_goal_environment(environment)
        if capacity < 1:
            raise ValueError(f"ReplayBuffer: capacity must be at least 1, got {capacity}.")
        spaces, self.action_space = environment.observation_space.spaces, environment.action_space
        self.capacity, self.num_added = capacity, 0
        self._in_episode = False
        discrete = hasattr(self.action_space, "n")
        sizes = {"observation": spaces["observation"].shape, "next_observation": spaces["observation"].shape}
        sizes |= {"achieved_goal": spaces["achieved_goal"].shape, "desired_goal": spaces["desired_goal"].shape}
        self.arrays: Arrays = {name: numpy.zeros((capacity, *size), numpy.float32) for name, size in sizes.items()}
        self.arrays["action"] = numpy.zeros(
            (capacity, *self.action_space.shape), numpy.int64 if discrete else numpy.float32
        )
        self.arrays["reward"] = numpy.zeros(capacity, numpy.float32)
        self.arrays["terminated"], self.arrays["truncated"] = (numpy.zeros(capacity, bool) for _ in range(2))
        self._end = numpy.full(capacity, _OPEN)
        self._begin = 0

    def __len__(self) -> int:
        return min(self.num_added, self.capacity)

    def add(
        self, observation: dict, action: Any, reward: float, next_observation: dict, terminated: bool, truncated: bool
    ) -> None:
        """What ``environment.step(action)`` returned, and the observation before it; in the order of time."""
        missing = [key for key in GOAL_KEYS if key not in next_observation]
        if missing:
            raise ValueError(f"ReplayBuffer.add: the observation lacks {', '.join(missing)}.")
        action = numpy.asarray(action)
        check_actions(action[None], self.action_space)
        place = self.num_added % self.capacity
        row = {
            "observation": observation["observation"],
            "next_observation": next_observation["observation"],
            "achieved_goal": next_observation["achieved_goal"],
            "desired_goal": next_observation["desired_goal"],
            "action": action - self.action_space.start if hasattr(self.action_space, "n") else action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
        }
        for name, value in row.items():
            self.arrays[name][place] = value
        self._end[place] = _OPEN
        if not self._in_episode:
            self._begin = self.num_added
        self.num_added += 1
        self._in_episode = not (terminated or truncated)
        if not self._in_episode:
            self.end_episode()

    def end_episode(self) -> None:
        """The next transition begins another episode; called by itself where one is terminated or truncated."""
        first = max(self._begin, self.num_added - self.capacity)
        self._end[numpy.arange(first, self.num_added) % self.capacity] = self.num_added - 1
        self._in_episode, self._begin = False, self.num_added

    def sample(self, size: int, goals: Goals, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """A batch of ``size`` transitions, uniform with replacement, on the CPU.

        ``achieved_goal`` is what next_observation achieves, ``goal``, or each name of a dictionary of samplers, what
        `GoalSampler` draws among achieved goals, ``goal_is_next`` whether that is the row's own achieved goal, and
        ``desired_goal`` what the environment wanted. Rewards are the environment's, for the desired goal.
        """
        if self.num_added == 0:
            raise ValueError("ReplayBuffer.sample: nothing was added yet.")
        oldest = self.num_added - len(self)
        indices = generator.integers(oldest, self.num_added, size=size)
        ends = numpy.minimum(self._end[indices % self.capacity], self.num_added - 1)
        chosen = sample_goals(goals, indices, ends, (oldest, self.num_added), generator)
        places = {name: each % self.capacity for name, each in chosen.items()}
        return batch_of(self.arrays, indices % self.capacity, places)

    def state_dict(self) -> dict[str, Any]:
        """Everything that was stored, as tensors and numbers."""
        filled = {name: torch.from_numpy(array[: len(self)].copy()) for name, array in self.arrays.items()}
        end = torch.from_numpy(self._end[: len(self)].copy())
        numbers = {"capacity": self.capacity, "num_added": self.num_added, "begin": self._begin}
        return {"arrays": filled, "end": end, "in_episode": self._in_episode, **numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"ReplayBuffer.load_state_dict: the capacity is {state['capacity']} there, {self.capacity} here."
            )
        for name, array in self.arrays.items():
            found = state["arrays"][name]
            if tuple(found.shape[1:]) != array.shape[1:]:
                raise ValueError(
                    f"ReplayBuffer.load_state_dict: {name} has rows of {tuple(found.shape[1:])} there, "
                    f"{array.shape[1:]} here."
                )
            array[: len(found)] = found.numpy()
        self._end[: len(state["end"])] = state["end"].numpy()
        self.num_added, self._begin, self._in_episode = state["num_added"], state["begin"], state["in_episode"]

"""Online transitions of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from .goals import Goals, sample_goals
from .spaces import GOAL_KEYS, check_actions, check_environment, has_goals, is_image
from .stacked_images import StackedImages, Stacks
from .transitions import Arrays, batch_of, check_horizon, windows_of

_OPEN = numpy.iinfo(numpy.int64).max


class ReplayBuffer:
    """The newest ``capacity`` transitions of one environment, step after step, with goals drawn anew in every batch.

    Args:
        environment: its observation space is a Dict with observation and, where it has goals, achieved_goal and
            desired_goal; vectors, but for observation, which may be images, uint8 (channels, height, width).
        capacity: in transitions, or in images, of which an episode has one more; memory for all of them is taken at
            once. Images stay uint8, and each is stored once, `StackedImages`: N of them take N * channels * height *
            width bytes and little more.
        extra: arrays that every transition has besides, such as an episode's skill: names to the shapes of a
            transition's values, which are stored as float32.
        frame_stack: images of an observation, one after another in its channels, the newest last; of vectors, 1.

    Transitions are numbered as they come, and a number's place is its remainder by the capacity. So an episode of
    which the oldest part was overwritten keeps its later part, and what comes after a transition is still there.
    """

    def __init__(
        self,
        environment: Any,
        capacity: int,
        *,
        extra: Mapping[str, tuple[int, ...]] | None = None,
        frame_stack: int = 1,
    ) -> None:
        check_environment(environment)
        if capacity < 1:
            raise ValueError(f"ReplayBuffer: capacity must be at least 1, got {capacity}.")
        spaces, self.action_space = environment.observation_space.spaces, environment.action_space
        self.capacity, self.num_added, self.longest_episode = capacity, 0, 0
        self._in_episode, self._oldest = False, 0
        self._extra = {name: tuple(shape) for name, shape in (extra or {}).items()}
        self._keys = GOAL_KEYS if has_goals(environment.observation_space) else GOAL_KEYS[:1]
        discrete = hasattr(self.action_space, "n")
        sizes = {key: spaces[key].shape for key in self._keys} | {"next_observation": spaces["observation"].shape}
        self.images = None
        if is_image(spaces["observation"]):
            self.images = StackedImages(capacity, sizes.pop("observation"), frame_stack)
            sizes.pop("next_observation")
        elif frame_stack != 1:
            raise ValueError(f"ReplayBuffer: frame_stack is of images, got {frame_stack} with vectors.")
        self.arrays: Arrays = {name: numpy.zeros((capacity, *size), numpy.float32) for name, size in sizes.items()}
        self.arrays["action"] = numpy.zeros(
            (capacity, *self.action_space.shape), numpy.int64 if discrete else numpy.float32
        )
        self.arrays["reward"] = numpy.zeros(capacity, numpy.float32)
        self.arrays["terminated"], self.arrays["truncated"] = (numpy.zeros(capacity, bool) for _ in range(2))
        taken = [name for name in self._extra if name in self.arrays]
        if taken:
            raise ValueError(f"ReplayBuffer: extra must have names of its own, got {', '.join(taken)}.")
        self.arrays |= {name: numpy.zeros((capacity, *shape), numpy.float32) for name, shape in self._extra.items()}
        self._rows = dict(self.arrays)
        if self.images is not None:
            self._rows |= {"observation": Stacks(self.images, 0), "next_observation": Stacks(self.images, 1)}
        self._end = numpy.full(capacity, _OPEN)
        self._begin = 0

    def __len__(self) -> int:
        return self.num_added - self._oldest

    def add(
        self,
        observation: dict,
        action: Any,
        reward: float,
        next_observation: dict,
        terminated: bool,
        truncated: bool,
        **extra: Any,
    ) -> None:
        """What ``environment.step(action)`` returned, the observation before it, and the values of the extra arrays; in
        the order of time."""
        missing = [key for key in self._keys if key not in next_observation]
        if missing:
            raise ValueError(f"ReplayBuffer.add: the observation lacks {', '.join(missing)}.")
        shapes = {name: numpy.shape(value) for name, value in extra.items()}
        if shapes != self._extra:
            raise ValueError(f"ReplayBuffer.add: extra arrays must be of shapes {self._extra}, got {shapes}.")
        action = numpy.asarray(action)
        check_actions(action[None], self.action_space)
        place = self.num_added % self.capacity
        row = {
            **{key: next_observation[key] for key in self._keys[1:]},
            "action": action - self.action_space.start if hasattr(self.action_space, "n") else action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            **extra,
        }
        states = observation["observation"], next_observation["observation"]
        if self.images is None:
            row["observation"], row["next_observation"] = states
        else:
            self.images.add(place, *states, is_first=not self._in_episode)
        for name, value in row.items():
            self.arrays[name][place] = value
        self._end[place] = _OPEN
        if not self._in_episode:
            self._begin = self.num_added
        self.num_added += 1
        self._forget_overwritten()
        self.longest_episode = max(self.longest_episode, min(self.num_added - self._begin, self.capacity))
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
        ``desired_goal`` what the environment wanted. Rewards are the environment's, for the desired goal. Of an
        environment without goals, goals are next observations.
        """
        indices, ends = self._drawn(size, generator)
        chosen = sample_goals(goals, indices, ends, (self.num_added - len(self), self.num_added), generator)
        places = {name: each % self.capacity for name, each in chosen.items()}
        return batch_of(self._rows, indices % self.capacity, places)

    def sample_windows(self, size: int, horizon: int, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """As `Dataset.sample_windows`; of an episode that is not over yet, what was added counts. An episode counts for
        the longest one also where it was overwritten since."""
        indices, ends = self._drawn(size, generator)
        check_horizon(horizon, self.longest_episode)
        return windows_of(self._rows, indices, ends, horizon)

    def _drawn(self, size: int, generator: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Numbers of transitions, and of the last ones of their episodes, (size,) each."""
        if self.num_added == 0:
            raise ValueError("ReplayBuffer.sample: nothing was added yet.")
        indices = generator.integers(self.num_added - len(self), self.num_added, size=size)
        return indices, numpy.minimum(self._end[indices % self.capacity], self.num_added - 1)

    def _forget_overwritten(self) -> None:
        self._oldest = max(self._oldest, self.num_added - self.capacity)
        while self.images is not None and not self.images.has(self._oldest % self.capacity):
            self._oldest += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that was stored, as tensors and numbers."""
        filled = {name: torch.from_numpy(array[: self.num_added].copy()) for name, array in self.arrays.items()}
        end = torch.from_numpy(self._end[: self.num_added].copy())
        numbers = {name: getattr(self, name) for name in ("capacity", "num_added", "longest_episode")}
        numbers["begin"] = self._begin
        images = {} if self.images is None else {"images": self.images.state_dict()}
        return {"arrays": filled, "end": end, "in_episode": self._in_episode, **numbers, **images}

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
        self.longest_episode, self._oldest = state["longest_episode"], 0
        if self.images is not None:
            self.images.load_state_dict(state["images"])
        if self.num_added:
            self._forget_overwritten()

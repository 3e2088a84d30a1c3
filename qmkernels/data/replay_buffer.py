"""Online transitions from an environment."""

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
    """The newest ``capacity`` transitions of one environment, in order, with goals redrawn for every batch.

    Args:
        environment: its observation space is a Dict with observation and, if it has goals, achieved_goal and
            desired_goal: vectors, except that observation may be images, uint8 (channels, height, width).
        capacity: in transitions, or in images, of which an episode has one more; memory for all of them is allocated at
            once. Images stay uint8, each stored once (`StackedImages`): N take N * channels * height * width bytes and
            little more.
        extra: further arrays, such as an episode's skill: maps names to the shapes of one transition's values, which
            are stored as float32.
        frame_stack: images per observation, stacked along channels, the newest last; 1 for vectors.

    Transitions are numbered in order of arrival and stored at their number modulo the capacity. So an episode whose
    oldest part was overwritten keeps its later part, and a transition's successors are still there.
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
            raise ValueError(f"ReplayBuffer: frame_stack must be 1 for vectors, got {frame_stack}.")
        self.arrays: Arrays = {name: numpy.zeros((capacity, *size), numpy.float32) for name, size in sizes.items()}
        self.arrays["action"] = numpy.zeros(
            (capacity, *self.action_space.shape), numpy.int64 if discrete else numpy.float32
        )
        self.arrays["reward"] = numpy.zeros(capacity, numpy.float32)
        self.arrays["terminated"], self.arrays["truncated"] = (numpy.zeros(capacity, bool) for _ in range(2))
        taken = [name for name in self._extra if name in self.arrays]
        if taken:
            raise ValueError(f"ReplayBuffer: extra must not reuse the names of other arrays, got {', '.join(taken)}.")
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
        """Adds what ``environment.step(action)`` returned, the observation before it, and the extra arrays' values; in
        order of time."""
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
        """Makes the next transition begin a new episode; `add` calls it after a terminated or truncated one."""
        first = max(self._begin, self.num_added - self.capacity)
        self._end[numpy.arange(first, self.num_added) % self.capacity] = self.num_added - 1
        self._in_episode, self._begin = False, self.num_added

    def sample(self, size: int, goals: Goals, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """Draws ``size`` transitions, uniformly with replacement, and returns them on the CPU.

        ``achieved_goal`` is what next_observation achieves. `GoalSampler` draws ``goal``, or each name in a dictionary
        of samplers, among achieved goals; ``goal_is_next`` tells whether it is the row's own. ``desired_goal`` is the
        environment's goal, for which it gave the rewards. If it has no goals, goals are next observations.
        """
        indices, ends = self._drawn(size, generator)
        chosen = sample_goals(goals, indices, ends, (self.num_added - len(self), self.num_added), generator)
        places = {name: numbers % self.capacity for name, numbers in chosen.items()}
        return batch_of(self._rows, indices % self.capacity, places)

    def sample_windows(self, size: int, horizon: int, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """Draws windows as `Dataset.sample_windows` does; an unfinished episode ends with its newest transition. The
        longest episode is the longest ever added, even if it has been overwritten."""
        indices, ends = self._drawn(size, generator)
        check_horizon(horizon, self.longest_episode)
        return windows_of(self._rows, indices, ends, horizon)

    def _drawn(self, size: int, generator: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Draws numbers of transitions; returns them and those of their episodes' last transitions, (size,) each."""
        if self.num_added == 0:
            raise ValueError("ReplayBuffer.sample: the buffer is empty; add transitions first.")
        indices = generator.integers(self.num_added - len(self), self.num_added, size=size)
        return indices, numpy.minimum(self._end[indices % self.capacity], self.num_added - 1)

    def _forget_overwritten(self) -> None:
        self._oldest = max(self._oldest, self.num_added - self.capacity)
        while self.images is not None and not self.images.has(self._oldest % self.capacity):
            self._oldest += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that is stored, as tensors and numbers."""
        filled = {name: torch.from_numpy(array[: self.num_added].copy()) for name, array in self.arrays.items()}
        end = torch.from_numpy(self._end[: self.num_added].copy())
        numbers = {name: getattr(self, name) for name in ("capacity", "num_added", "longest_episode")}
        numbers["begin"] = self._begin
        images = {} if self.images is None else {"images": self.images.state_dict()}
        return {"arrays": filled, "end": end, "in_episode": self._in_episode, **numbers, **images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"ReplayBuffer.load_state_dict: the state's capacity must be {self.capacity}, as here, got "
                f"{state['capacity']}."
            )
        for name, array in self.arrays.items():
            stored = state["arrays"][name]
            if tuple(stored.shape[1:]) != array.shape[1:]:
                raise ValueError(
                    f"ReplayBuffer.load_state_dict: rows of the state's {name} must be {array.shape[1:]}, as here, got "
                    f"{tuple(stored.shape[1:])}."
                )
            array[: len(stored)] = stored.numpy()
        self._end[: len(state["end"])] = state["end"].numpy()
        self.num_added, self._begin, self._in_episode = state["num_added"], state["begin"], state["in_episode"]
        self.longest_episode, self._oldest = state["longest_episode"], 0
        if self.images is not None:
            self.images.load_state_dict(state["images"])
        if self.num_added:
            self._forget_overwritten()

"""Offline transitions."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from .goals import Goals, sample_goals
from .spaces import GOAL_KEYS, check_actions
from .transitions import Arrays, batch_of, check_horizon, stored_dtype, windows_of


class Dataset:
    """Transitions of whole episodes, one after another, in numpy arrays; names mean what they mean in gymnasium.

    Args:
        observation, next_observation: (N, observation_size); stored as float32, like all floats.
        action: (N, action_size) float, or (N,) integers.
        reward: (N,). Default 0.
        terminated: (N,) bool, whether the environment ended the episode with this transition. Default: nowhere.
        truncated: (N,) bool, whether the episode was cut off after this transition, by time or by the end of the data.
        achieved_goal: (N, goal_size), what next_observation achieves; None: goals are observations.
        action_space: a Box or Discrete that must contain all actions.

    The last transition always ends its episode.

    Raises:
        ValueError: arrays differ in length, values are not finite, actions are outside their space, or no episode ends:
            goals would then cross from one episode to the next.
    """

    def __init__(
        self,
        observation: Any,
        action: Any,
        next_observation: Any,
        *,
        reward: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        achieved_goal: Any = None,
        action_space: Any = None,
    ) -> None:
        if terminated is None and truncated is None:
            raise ValueError("Dataset: give terminated, truncated or both; otherwise the ends of episodes are unknown.")
        size = len(observation)
        columns = {
            "observation": observation,
            "action": action,
            "next_observation": next_observation,
            "reward": numpy.zeros(size) if reward is None else reward,
            "terminated": numpy.zeros(size, bool) if terminated is None else numpy.array(terminated, bool),
            "truncated": numpy.zeros(size, bool) if truncated is None else numpy.array(truncated, bool),
        }
        if achieved_goal is not None:
            columns["achieved_goal"] = achieved_goal
        self.arrays: Arrays = {}
        for name, value in columns.items():
            array = numpy.asarray(value)
            self.arrays[name] = numpy.ascontiguousarray(array, dtype=stored_dtype(array))
        self._check()
        if action_space is not None:
            check_actions(self.arrays["action"], action_space)
        ends = self.arrays["terminated"] | self.arrays["truncated"]
        if not ends.any():
            raise ValueError(
                f"Dataset: none of the {size} transitions is terminated or truncated; flag the last of each episode."
            )
        if not ends[-1]:
            self.arrays["truncated"][-1] = ends[-1] = True
        last = numpy.flatnonzero(ends)
        self.episode_end = last[numpy.searchsorted(last, numpy.arange(size))]
        """Index of the last transition of each transition's episode, (N,)."""
        self.longest_episode = int(numpy.diff(last, prepend=-1).max())
        """In transitions."""

    @classmethod
    def from_minari(cls, dataset: Any, *, check_space: bool = True) -> Dataset:
        """Reads a Minari dataset, given itself or as the name of a local one (nothing is downloaded).

        If observations are dictionaries, ``achieved_goal`` supplies the goals.
        """
        if isinstance(dataset, str):
            import minari

            try:
                dataset = minari.load_dataset(dataset)
            except FileNotFoundError as error:
                known = ", ".join(minari.list_local_datasets()) or "none"
                raise ValueError(
                    f"No Minari dataset {dataset!r} on this machine; there are: {known}. To download a public one: "
                    f"minari download {dataset}"
                ) from error
        parts: dict[str, list[numpy.ndarray]] = {}
        for episode in dataset.iterate_episodes():
            observations, achieved = episode.observations, None
            if isinstance(observations, dict):
                missing = [key for key in GOAL_KEYS[:2] if key not in observations]
                if missing:
                    raise ValueError(f"Dataset.from_minari: the observations lack {', '.join(missing)}.")
                observations, achieved = observations["observation"], observations["achieved_goal"]
            length = len(episode.actions)
            truncated = numpy.asarray(episode.truncations, dtype=bool).copy()
            # An episode ends with its last transition, even if the recording just stopped.
            truncated[-1] |= not episode.terminations[-1]
            columns = {
                "observation": observations[:length],
                "action": episode.actions,
                "next_observation": observations[1 : length + 1],
                "reward": episode.rewards,
                "terminated": episode.terminations,
                "truncated": truncated,
                "achieved_goal": None if achieved is None else achieved[1 : length + 1],
            }
            for name, value in columns.items():
                if value is not None:
                    parts.setdefault(name, []).append(numpy.asarray(value))
        if not parts:
            raise ValueError("Dataset.from_minari: the dataset has no episodes.")
        arrays = {name: numpy.concatenate(values) for name, values in parts.items()}
        return cls(**arrays, action_space=dataset.action_space if check_space else None)

    @classmethod
    def from_ogbench(cls, path: str | Path, *, action_space: Any = None) -> Dataset:
        """Reads an OGBench file, the ``.npz`` of a dataset or its ``-val``: observations, actions and terminals.

        An episode's last row, which is flagged terminal, is a state without an action; the transition before it is
        truncated, because OGBench's episodes end by time. Goals are observations. ``rewards`` are read if the file has
        them; other arrays are not.

        Raises ValueError as `Dataset` does, and if there is no such file, it lacks one of the three arrays, they differ
        in length, or observations are images.

        Source: Park et al. 2024, arXiv 2410.20092, and the loader of its package.
        """
        if not zipfile.is_zipfile(path):
            raise ValueError(f"Dataset.from_ogbench: there is no .npz file {path}.")
        with numpy.load(path) as file:
            missing = [name for name in ("observations", "actions", "terminals") if name not in file]
            if missing:
                raise ValueError(f"Dataset.from_ogbench: {path} lacks {', '.join(missing)}; it has {', '.join(file)}.")
            names = [name for name in ("observations", "actions", "terminals", "rewards") if name in file]
            rows = {name: file[name] for name in names}
        sizes = {name: len(array) for name, array in rows.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Dataset.from_ogbench: arrays of {path} differ in their numbers of rows: {sizes}.")
        observations = rows["observations"]
        if observations.ndim != 2:
            raise ValueError(
                f"Dataset.from_ogbench: observations must be vectors, (N, size), got {observations.shape}; images are "
                "not supported."
            )
        is_last = rows["terminals"].astype(bool)
        if not is_last.any():
            raise ValueError(f"Dataset.from_ogbench: {path} flags no row as terminal.")
        is_last[-1:] = True  # the file's last state has no next one, flagged or not
        starts = numpy.flatnonzero(~is_last)
        return cls(
            observations[starts],
            rows["actions"][starts],
            observations[starts + 1],
            reward=rows["rewards"][starts] if "rewards" in rows else None,
            truncated=is_last[starts + 1],
            action_space=action_space,
        )

    def every(self, steps: int) -> Dataset:
        """Returns the transitions of an agent that acts at every ``steps``-th step only.

        Each leads from a state to the one ``steps`` later; its reward is the sum of theirs, and its action their mean,
        which fits environments where the effects of actions add up. An episode becomes ``steps`` episodes, which begin
        at its first, second, ... state; what is left of fewer steps at their ends is left out.

        Raises ValueError unless some episode has that many steps and, for more than one, actions are vectors.
        """
        if not 1 <= steps <= self.longest_episode:
            raise ValueError(
                f"Dataset.every: steps must be from 1 to {self.longest_episode}, the longest episode's, got {steps}."
            )
        if steps > 1 and self.arrays["action"].ndim == 1:
            raise ValueError("Dataset.every: discrete actions have no mean, so steps (--action-repeat) must be 1.")
        ends = numpy.unique(self.episode_end)
        lengths = numpy.diff(ends, prepend=-1)
        begin = numpy.repeat(ends - lengths + 1, lengths)
        first = numpy.flatnonzero(numpy.arange(len(self)) + steps - 1 <= self.episode_end)
        first = first[numpy.lexsort((first, (first - begin[first]) % steps, begin[first]))]
        last = first + steps - 1

        def total(name: str) -> numpy.ndarray:
            return sum(self.arrays[name][first + step] for step in range(steps))

        terminated = self.arrays["terminated"][last]
        return Dataset(
            self.arrays["observation"][first],
            total("action") / steps,
            self.arrays["next_observation"][last],
            reward=total("reward"),
            terminated=terminated,
            truncated=~terminated & (last + steps > self.episode_end[last]),
            achieved_goal=self.arrays["achieved_goal"][last] if "achieved_goal" in self.arrays else None,
        )

    def save(self, path: str | Path) -> None:
        """Writes an ``.npz`` file that `load` reads; an earlier file is replaced once the new one is complete."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            numpy.savez(file, **self.arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        with numpy.load(path) as arrays:
            return cls(**arrays)

    def __len__(self) -> int:
        return len(self.arrays["reward"])

    @property
    def num_episodes(self) -> int:
        return len(numpy.unique(self.episode_end))

    def sample(self, size: int, goals: Goals, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """Draws ``size`` transitions, uniformly with replacement, and returns their rows and goals on the CPU.

        ``goals`` draws "goal"; a dictionary of samplers draws one goal per name, such as an actor's own.
        "goal_is_next" tells whether the goal is the row's own next state.
        """
        indices = generator.integers(len(self), size=size)
        chosen = sample_goals(goals, indices, self.episode_end[indices], (0, len(self)), generator)
        return batch_of(self.arrays, indices, chosen)

    def sample_windows(self, size: int, horizon: int, generator: numpy.random.Generator) -> dict[str, Tensor]:
        """Draws ``size`` windows of ``horizon`` successive transitions, which start anywhere, with replacement.

        Returns on the CPU: observation (B, H + 1, ...), action (B, H, ...), likewise reward, terminated and the others,
        and mask (B, H), which is False after the episode's end, where its last transition is repeated. ValueError if
        the horizon exceeds every episode.
        """
        check_horizon(horizon, self.longest_episode)
        indices = generator.integers(len(self), size=size)
        return windows_of(self.arrays, indices, self.episode_end[indices], horizon)

    def _check(self) -> None:
        size = len(self.arrays["observation"])
        if size == 0:
            raise ValueError("Dataset: observation must have at least one row, got none.")
        for name, array in self.arrays.items():
            if len(array) != size:
                raise ValueError(f"Dataset: {name} must have {size} rows, as many as observation, got {len(array)}.")
            if array.dtype == numpy.float32 and not numpy.isfinite(array).all():
                raise ValueError(f"Dataset: {name} must be finite, got NaN or infinity; leave those episodes out.")
        if self.arrays["observation"].shape != self.arrays["next_observation"].shape:
            raise ValueError(
                f"Dataset: observation and next_observation must have the same shape, got "
                f"{self.arrays['observation'].shape} and {self.arrays['next_observation'].shape}."
            )

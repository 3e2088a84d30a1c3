"""Batches from arrays of transitions, whoever stores them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch
from torch import Tensor

Arrays = dict[str, numpy.ndarray]


def batch_of(arrays: Arrays, places: numpy.ndarray, goal_places: Mapping[str, numpy.ndarray]) -> dict[str, Tensor]:
    """Rows of the arrays as tensors on the CPU, and of each row, by name, what other transitions achieved.

    Goals are ``achieved_goal`` where the arrays have it, otherwise ``next_observation``. NAME_is_next, (B,) bool, says
    of each whether it is what the row itself achieved.
    """
    goals = arrays["achieved_goal"] if "achieved_goal" in arrays else arrays["next_observation"]
    batch = {name: torch.from_numpy(array[places]) for name, array in arrays.items()}
    batch |= {f"{name}_is_next": torch.from_numpy(chosen == places) for name, chosen in goal_places.items()}
    return batch | {name: torch.from_numpy(goals[chosen]) for name, chosen in goal_places.items()}


def windows_of(arrays: Arrays, numbers: numpy.ndarray, ends: numpy.ndarray, horizon: int) -> dict[str, Tensor]:
    """Windows of ``horizon`` transitions one after another, as tensors on the CPU.

    Args:
        arrays: (capacity, ...) each; the transition of a number is at its remainder by the capacity.
        numbers: the first transition of each window, (B,).
        ends: the last transition of each one's episode, (B,).

    Returns:
        ``observation`` (B, horizon + 1, ...), of which the last is that after the last transition; every other array
        but next_observation, (B, horizon, ...); ``mask`` (B, horizon), whether the transition is of the episode. After
        its end the last transition is repeated, and of observations the one after it.
    """
    places = numbers[:, None] + numpy.arange(horizon)
    mask = places <= ends[:, None]
    places = numpy.minimum(places, ends[:, None]) % len(arrays["reward"])
    observation = numpy.concatenate([arrays["observation"][places[:, :1]], arrays["next_observation"][places]], axis=1)
    others = {name: array[places] for name, array in arrays.items() if name not in ("observation", "next_observation")}
    windows = {"observation": observation, **others, "mask": mask}
    return {name: torch.from_numpy(array) for name, array in windows.items()}


def check_horizon(horizon: int, longest_episode: int) -> None:
    """ValueError unless an episode has as many transitions."""
    if not 1 <= horizon <= longest_episode:
        raise ValueError(
            f"A window must have from 1 to {longest_episode} transitions, which the longest episode has, got {horizon}."
        )


def stored_dtype(array: numpy.ndarray) -> numpy.dtype:
    """Integers as int64, truth values as they are, everything else as float32."""
    if array.dtype == numpy.bool_:
        return array.dtype
    return numpy.dtype(numpy.int64 if numpy.issubdtype(array.dtype, numpy.integer) else numpy.float32)

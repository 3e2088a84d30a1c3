"""Batches from arrays of transitions, for datasets and replay buffers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch
from torch import Tensor

Arrays = dict[str, numpy.ndarray]


def batch_of(arrays: Arrays, places: numpy.ndarray, goal_places: Mapping[str, numpy.ndarray]) -> dict[str, Tensor]:
    """Returns rows of the arrays, and named goals that other transitions achieved, as tensors on the CPU.

    Goals are ``achieved_goal`` if the arrays have it, otherwise ``next_observation``. NAME_is_next, (B,) bool, tells
    whether a goal is what the row itself achieved.
    """
    goals = arrays["achieved_goal"] if "achieved_goal" in arrays else arrays["next_observation"]
    batch = {name: torch.from_numpy(array[places]) for name, array in arrays.items()}
    batch |= {f"{name}_is_next": torch.from_numpy(chosen == places) for name, chosen in goal_places.items()}
    return batch | {name: torch.from_numpy(goals[chosen]) for name, chosen in goal_places.items()}


def windows_of(arrays: Arrays, numbers: numpy.ndarray, ends: numpy.ndarray, horizon: int) -> dict[str, Tensor]:
    """Returns windows of ``horizon`` successive transitions as tensors on the CPU.

    Args:
        arrays: (capacity, ...) each; a transition is stored at its number modulo the capacity.
        numbers: of the first transition of each window, (B,).
        ends: number of the last transition of each window's episode, (B,).

    Returns:
        ``observation`` (B, horizon + 1, ...), which ends with the observation after the last transition; every other
        array except next_observation, (B, horizon, ...); and ``mask`` (B, horizon), whether the transition belongs to
        the episode. After its end the last transition and its next observation are repeated.
    """
    places = numbers[:, None] + numpy.arange(horizon)
    mask = places <= ends[:, None]
    places = numpy.minimum(places, ends[:, None]) % len(arrays["reward"])
    observation = numpy.concatenate([arrays["observation"][places[:, :1]], arrays["next_observation"][places]], axis=1)
    others = {name: array[places] for name, array in arrays.items() if name not in ("observation", "next_observation")}
    windows = {"observation": observation, **others, "mask": mask}
    return {name: torch.from_numpy(array) for name, array in windows.items()}


def check_horizon(horizon: int, longest_episode: int) -> None:
    """Raises ValueError unless some episode has that many transitions."""
    if not 1 <= horizon <= longest_episode:
        raise ValueError(
            f"A window must have from 1 to {longest_episode} transitions, the longest episode's, got {horizon}."
        )


def stored_dtype(array: numpy.ndarray) -> numpy.dtype:
    """Returns the dtype to store an array in: int64 for integers, bool for bools, float32 for everything else."""
    if array.dtype == numpy.bool_:
        return array.dtype
    return numpy.dtype(numpy.int64 if numpy.issubdtype(array.dtype, numpy.integer) else numpy.float32)

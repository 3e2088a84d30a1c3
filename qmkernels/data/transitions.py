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


def stored_dtype(array: numpy.ndarray) -> numpy.dtype:
    """Integers as int64, truth values as they are, everything else as float32."""
    if array.dtype == numpy.bool_:
        return array.dtype
    return numpy.dtype(numpy.int64 if numpy.issubdtype(array.dtype, numpy.integer) else numpy.float32)

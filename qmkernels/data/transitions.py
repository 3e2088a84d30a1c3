"""Batches from arrays of transitions, whoever stores them."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

Arrays = dict[str, numpy.ndarray]


def batch_of(arrays: Arrays, places: numpy.ndarray, goal_places: numpy.ndarray) -> dict[str, Tensor]:
    """Rows of the arrays as tensors on the CPU, and each row's goal: what transition ``goal_places`` achieved.

    Goals are ``achieved_goal`` where the arrays have it, otherwise ``next_observation``.
    """
    goals = arrays["achieved_goal"] if "achieved_goal" in arrays else arrays["next_observation"]
    batch = {name: torch.from_numpy(array[places]) for name, array in arrays.items()}
    batch["goal"] = torch.from_numpy(goals[goal_places])
    return batch


def stored_dtype(array: numpy.ndarray) -> numpy.dtype:
    """Integers as int64, truth values as they are, everything else as float32."""
    if array.dtype == numpy.bool_:
        return array.dtype
    return numpy.dtype(numpy.int64 if numpy.issubdtype(array.dtype, numpy.integer) else numpy.float32)

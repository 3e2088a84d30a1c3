"""The k smallest distances of each row, in plain PyTorch: the definition of the op ``nearest``."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k smallest of (..., M), ascending, and their indices, (..., k); ties by index, NaN last."""
    values, indices = distances.sort(dim=-1, stable=True)
    return values[..., :k], indices[..., :k]


def nearest_merge_outputs(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(indices)

"""Nearest neighbours on the reference backend, and what every backend's function takes and returns.

The bank is processed in tiles; each tile's distances are merged into the k smallest so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import nearest as definition


def nearest_merge(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Returns the k smallest of those so far and of a tile, (R, k): values in ascending order, and their indices.

    ``distances`` (R, T), float32 or float64, contiguous, are from rows of x to the bank's rows ``first`` to
    ``first + T``. ``values`` (R, k) and ``indices`` (R, k) int64 are the previous tile's result; an index of -1 marks
    an empty place, which comes after everything. ``first`` exceeds every index so far. Equal distances are in the order
    of their indices, and NaN comes after every number.
    """
    here = torch.arange(first, first + distances.shape[1], device=distances.device)
    taken = (indices >= 0).sum(dim=1).min() if indices.numel() else 0
    k = values.shape[1]
    # Every row has filled the same places, because all have seen equally many distances.
    everything = torch.cat([values[:, :taken], distances], dim=1)
    everywhere = torch.cat([indices[:, :taken], here.expand(distances.shape)], dim=1)
    nearest, place = definition.smallest(everything, k)
    empty = k - nearest.shape[1]
    values = torch.nn.functional.pad(nearest, (0, empty), value=torch.nan)
    return values, torch.nn.functional.pad(everywhere.gather(1, place), (0, empty), value=-1)

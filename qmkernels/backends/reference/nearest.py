"""Nearest neighbours on the reference backend, and what every backend's function takes and returns.

The bank is processed in tiles; each tile's distances are merged into the k smallest so far.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_merge(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Returns the k smallest of those so far and of a tile, (R, k): values in ascending order, and their indices.

    ``distances`` (R, T), float32 or float64, contiguous, are from rows of x to the bank's rows ``first`` to
    ``first + T``. ``values`` (R, k) and ``indices`` (R, k) int64 are the previous tile's result; an index of -1 marks
    an empty place, which comes after everything. ``first`` exceeds every index so far. Equal distances are in the order
    of their indices, and NaN comes after every number.
    """
    here = torch.arange(first, first + distances.shape[1], device=distances.device)
    everything = torch.cat([values, distances], dim=1)
    everywhere = torch.cat([indices, here.expand(distances.shape)], dim=1)
    # In ascending order, and then with empty places behind the others, which keep their order: no number is read.
    order = everything.argsort(dim=1, stable=True)
    is_empty = (everywhere < 0).gather(1, order)
    order = order.gather(1, is_empty.byte().argsort(dim=1, stable=True))[:, : values.shape[1]]
    nearest = everywhere.gather(1, order)
    return everything.gather(1, order).masked_fill(nearest < 0, torch.nan), nearest

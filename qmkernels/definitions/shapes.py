"""Shapes that the definitions share: the outputs of kernels, and parameters of runs of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def empty(like: Tensor, *sizes: int) -> Tensor:
    """Uninitialised, as ``like``. Sizes one by one: torch reads a tuple or ``torch.Size`` a microsecond slower."""
    return like.new_empty(*sizes) if sizes else like.new_empty(())


def of_rows(parameter: Tensor, rows: Sequence[int], own_dims: int = 0) -> Tensor:
    """A parameter of ``own_dims`` dimensions as it is, and those of G equal runs of neighbouring rows, (G, ...), as one
    for each of the rows, (*rows, ...)."""
    if parameter.dim() == own_dims:
        return parameter
    runs, *own = parameter.shape
    return parameter.unsqueeze(1).expand(-1, math.prod(rows) // runs, *own).reshape(*rows, *own)

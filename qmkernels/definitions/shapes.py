"""Shapes shared by the definitions: outputs of kernels, and parameters of runs of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .dtypes import HALF


def empty(like: Tensor, *sizes: int) -> Tensor:
    """Makes an uninitialised tensor like ``like``, in its compute dtype. Takes single sizes: torch reads a tuple a
    microsecond slower."""
    if like.dtype in HALF:
        return like.new_empty(sizes, dtype=torch.float32)
    return like.new_empty(*sizes) if sizes else like.new_empty(())


def of_rows(parameter: Tensor, rows: Sequence[int], own_dims: int = 0) -> Tensor:
    """Expands parameters of G equal runs of neighbouring rows, (G, ...), to one per row, (*rows, ...); returns a single
    parameter, of ``own_dims`` dimensions, unchanged."""
    if parameter.dim() == own_dims:
        return parameter
    runs, *sizes = parameter.shape
    return parameter.unsqueeze(1).expand(-1, math.prod(rows) // runs, *sizes).reshape(*rows, *sizes)

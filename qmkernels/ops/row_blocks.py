"""Blocks of the rows of x, for formulas in plain PyTorch of ops between all pairs of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .autograd import Op
    from .functions import Tensors

# Values of pairs of rows, N * M * D, that a formula in plain PyTorch computes at once.
VALUES_AT_ONCE = 2**21


def row_blocks(op: Op, saved: Tensors) -> list[slice | None]:
    """Splits the rows of x into blocks, so that the formula of a pairwise op, computed block by block, makes nothing of
    size N x M x D; None means all rows at once."""
    if not op.pairwise:
        return [None]
    x, y, *_ = saved
    if x.shape[1] * y.numel() <= VALUES_AT_ONCE:
        return [None]
    rows = max(VALUES_AT_ONCE // y.numel(), 1)
    return [slice(first, first + rows) for first in range(0, x.shape[1], rows)]


def _is_of_all_rows(op: Op, place: int) -> bool:
    """Returns whether the saved tensor at this index, or its gradient, is y or a parameter."""
    return place == 1 or place == op.parameter


def rows_of(op: Op, place: int, tensor: Tensor | None, block: slice | None) -> Tensor | None:
    if block is None or tensor is None or tensor.shape == (0,) or _is_of_all_rows(op, place):
        return tensor
    return tensor[:, block]


def joined(op: Op, place: int, parts: Sequence[Tensor]) -> Tensor:
    """Joins the blocks of a tensor, gradient or tangent."""
    if len(parts) == 1:
        return parts[0]
    return sum(parts) if _is_of_all_rows(op, place) else torch.cat(parts, dim=1)

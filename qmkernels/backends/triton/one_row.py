"""Pairs of many rows with one, in every matrix of a batch: the pairwise form of candidates and a goal.

Kernels for all pairs would copy both sides. Instead those of matching rows read the one row again for each of the many,
from the cache. Floor: reading the many once and, backward, writing their gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

# The gradient of the one row is a sum of parts, each over so many of the other rows, or over a program's tile.
_ROWS_A_PART = 16


class OneRow(NamedTuple):
    """Matrices of pairs that have a single row on one side, x or y, and ``count`` rows on the other."""

    batch: int
    count: int
    is_x: bool

    @property
    def num_rows(self) -> int:
        return self.batch * self.count

    @property
    def sharing(self) -> tuple[int, int]:
        """Returns how many neighbouring rows share a row of x, and how many one of y."""
        return (self.count, 1) if self.is_x else (1, self.count)

    def parts(self, like: Tensor, tile_rows: int) -> tuple[Tensor, int]:
        """Returns memory for the parts of the one rows' gradient, (B, parts, D), and tiles per part."""
        tiles = max(_ROWS_A_PART // tile_rows, 1)
        return like.new_empty(self.batch, triton.cdiv(self.count, tiles * tile_rows), like.shape[-1]), tiles


def one_row_of(x: Tensor, y: Tensor) -> OneRow | None:
    """Returns what x (B, N, D) and y (B, M, D) are if one side has a single row, else None."""
    if y.shape[1] == 1:
        return OneRow(x.shape[0], x.shape[1], False)
    return OneRow(x.shape[0], y.shape[1], True) if x.shape[1] == 1 else None


def add_parts(parts: Tensor, grad: Tensor) -> None:
    """Writes the sums of parts (B, parts, D) to ``grad`` (B, 1, D)."""
    grad.copy_(parts.sum(dim=1, keepdim=True, dtype=torch.float64))

"""Every pair of rows, one block of rows at a time, for distances that no kernel reduces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.torch_internals import is_exporting, records_derivative

# Values of pairs that exist at once: 16 MiB of float32.
_MOST_VALUES = 1 << 22


def in_row_blocks(
    pairs: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, values_per_pair: int, records_gradient: bool
) -> Tensor:
    """Computes ``pairs(x, y)``, from x (B, N, D) and y (B, M, D) to (B, N, M), for a few rows of x at a time.

    Only the current block holds all ``values_per_pair`` of its pairs. If a gradient is recorded and there are several
    blocks, the backward pass computes each again instead of storing it; torch.compile and torch.func, which cannot
    trace that, store them. A program of torch.export serves all sizes, and has one block.
    """
    if is_exporting():
        return pairs(x, y)
    batch, num_rows, _ = x.shape
    block = max(1, _MOST_VALUES // max(1, batch * y.shape[1] * values_per_pair))
    if num_rows <= block:
        return pairs(x, y)
    recompute = records_gradient and not torch.compiler.is_compiling() and not records_derivative()
    results = []
    for rows in x.split(block, dim=1):
        results.append(checkpoint(pairs, rows, y, use_reentrant=False) if recompute else pairs(rows, y))
    return torch.cat(results, dim=1)

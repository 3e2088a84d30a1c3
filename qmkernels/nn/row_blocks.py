"""Every row against every row, a block of rows at a time: for distances whose pairs cannot be reduced in a kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.torch_internals import records_derivative

# Values of pairs that exist at a time: 16 MiB of float32.
_MOST_VALUES = 1 << 22


def in_row_blocks(
    pairs: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, values_per_pair: int, records_gradient: bool
) -> Tensor:
    """``pairs(x, y)``, which takes x (B, N, D) and y (B, M, D) to (B, N, M), of a few rows of x at a time.

    Of the rows of a block all ``values_per_pair`` of a pair exist at once, of the rest the results alone. Where a
    gradient is recorded and there are several blocks, each is computed a second time in the backward pass instead of
    being stored; torch.compile and torch.func, which do not trace that, store them.
    """
    batch, num_rows, _ = x.shape
    block = max(1, _MOST_VALUES // max(1, batch * y.shape[1] * values_per_pair))
    if num_rows <= block:
        return pairs(x, y)
    recompute = records_gradient and not torch.compiler.is_compiling() and not records_derivative()
    results = []
    for rows in x.split(block, dim=1):
        results.append(checkpoint(pairs, rows, y, use_reentrant=False) if recompute else pairs(rows, y))
    return torch.cat(results, dim=1)

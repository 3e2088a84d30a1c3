"""Losses over all pairs, one tile at a time: the matrix of distances never exists, forward or backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# A loss keeps a few matrices as large as the distances. From this many pairs on it works in tiles instead.
_STREAM_FROM = {"cpu": 1 << 24, "cuda": 1 << 25}
# On a CPU: matrices of 32 MiB, which the allocator maps from the system and returns. Smaller ones come from its heap,
# which the small results that outlive a tile fragment until it is as large as the whole matrix.
_TILE_PAIRS = {"cpu": 1 << 23, "cuda": 1 << 23}


def should_stream(streaming: bool | None, num_pairs: int, device: torch.device) -> bool:
    """Returns ``streaming``, or if None whether there are enough pairs for it."""
    return num_pairs > _STREAM_FROM.get(device.type, 1 << 24) if streaming is None else streaming


def by_tiles(
    part: Callable[..., tuple[Tensor, ...]],
    rows: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    num_columns: int,
    streaming: bool,
) -> list[Tensor]:
    """Calls ``part(begin, *rows, *others)`` on blocks of rows (..., R, D) and concatenates its results (..., R).

    With ``streaming`` a block's matrices live only while it is computed, in forward and again in backward. Otherwise
    all rows form one block.
    """
    count = rows[0].shape[-2]
    if not streaming:
        return list(part(0, *rows, *others))
    size = max(1, _TILE_PAIRS.get(rows[0].device.type, 1 << 23) // max(1, num_columns * rows[0].shape[:-2].numel()))
    results = []
    for index, blocks in enumerate(zip(*(tensor.split(size, dim=-2) for tensor in rows), strict=True)):
        arguments = (index * size, *blocks, *others)
        if torch.is_grad_enabled() and count:
            results.append(checkpoint(part, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            results.append(part(*arguments))
    return [torch.cat(parts, dim=-1) for parts in zip(*results, strict=True)]

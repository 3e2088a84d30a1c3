"""Losses over all pairs, a tile of pairs at a time: the matrix of distances never exists, forward or backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# A loss keeps a few matrices of the distances' size; from this many pairs on it goes by tiles of that many.
_STREAM_FROM = {"cpu": 1 << 24, "cuda": 1 << 25}
# On a CPU: matrices of 32 MiB, which the allocator takes from the system and gives back. Smaller ones come from its
# heap, which the small results that outlive a tile break into pieces, until it is as large as the whole matrix.
_TILE_PAIRS = {"cpu": 1 << 23, "cuda": 1 << 23}


def should_stream(streaming: bool | None, num_pairs: int, device: torch.device) -> bool:
    """What was asked for; None: by size."""
    return num_pairs > _STREAM_FROM.get(device.type, 1 << 24) if streaming is None else streaming


def by_tiles(
    part: Callable[..., tuple[Tensor, ...]],
    rows: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    num_columns: int,
    streaming: bool,
) -> list[Tensor]:
    """``part(begin, *rows, *others)`` on blocks of rows, (..., R, D), its results (..., R) put together again.

    With ``streaming`` a block's matrices live while it is computed, forward and once more in the backward pass;
    without, all rows are one block.
    """
    count = rows[0].shape[-2]
    if not streaming:
        return list(part(0, *rows, *others))
    size = max(1, _TILE_PAIRS.get(rows[0].device.type, 1 << 23) // max(1, num_columns * rows[0].shape[:-2].numel()))
    found = []
    for index, blocks in enumerate(zip(*(tensor.split(size, dim=-2) for tensor in rows), strict=True)):
        arguments = (index * size, *blocks, *others)
        if torch.is_grad_enabled() and count:
            found.append(checkpoint(part, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(part(*arguments))
    return [torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)]

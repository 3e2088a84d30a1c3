"""The launches of PQE that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch, tile_constants

from qmkernels.backends.triton import component_tiles
from qmkernels.backends.triton import pqe as rows
from qmkernels.backends.triton import pqe_pairwise as pairs


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    block_x, block_y = component_tiles.pair_tile(1000, 1000, dtype.itemsize)
    without, unneeded = {"weights_ptr": None, "grad_weights_ptr": None}, {"grad_weights_ptr": None}
    for num_components, size, given in (
        (128, 4, {}),
        (128, 4, unneeded),
        (7, 1, without),
        (3, 33, without),
        (1, 1024, {}),
    ):
        forward = {"K": size, **{name: given[name] for name in given if name == "weights_ptr"}}
        tile = component_tiles.component_tile(num_components, size)
        of_tile = tile_constants(tile, "BLOCK_K")
        yield rows.pqe_forward_kernel, {**forward, **of_tile}, tile.num_warps
        yield rows.pqe_backward_kernel, {"K": size, **given, **of_tile}, tile.num_warps
        yield pairs.pqe_pairwise_forward_kernel, {**forward, "BLOCK_X": block_x, "BLOCK_Y": block_y}, 4
        tile = component_tiles.own_tile(1000, num_components, size)
        of_tile = {"SIGN": 1, "stride_other": 1, **tile_constants(tile, "BLOCK_K")}
        yield pairs.pqe_pairwise_backward_kernel, {"K": size, **given, **of_tile}, tile.num_warps

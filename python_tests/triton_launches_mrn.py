"""The launches of MRN that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch, tile_constants

from qmkernels.backends.triton import component_tiles
from qmkernels.backends.triton import mrn as rows
from qmkernels.backends.triton import mrn_common as common
from qmkernels.backends.triton import mrn_pairwise as pairs
from qmkernels.definitions.mrn import MrnSettings


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    block_x, block_y = component_tiles.pair_tile(1000, 1000, dtype.itemsize)
    for form, size in (
        (MrnSettings(8, eps=1e-6, reduction="mean"), 64),
        (MrnSettings(asymmetric="second", squares="mean", eps=1e-12, eps_form="max", reduction="none"), 512),
        (MrnSettings(100, "none", exponent=2.0, eps=1e-8, eps_form="difference"), 1),
        (MrnSettings(exponent=1.5), 2047),
    ):
        constants = common.constants(form, size)
        tile = component_tiles.component_tile(form.num_components, size)
        for kernel in (rows.mrn_forward_kernel, rows.mrn_backward_kernel):
            yield kernel, {**constants, **tile_constants(tile, "BLOCK_S")}, tile.num_warps
        yield pairs.mrn_pairwise_forward_kernel, {**constants, "BLOCK_X": block_x, "BLOCK_Y": block_y}, 4
        tile = component_tiles.own_tile(1000, form.num_components, size)
        constants |= {"SIGN": -1, "stride_own": 1, **tile_constants(tile, "BLOCK_S")}
        yield pairs.mrn_pairwise_backward_kernel, constants, tile.num_warps

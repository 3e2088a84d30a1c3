"""The launches of IQE that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from compile_triton import Launch

from qmkernels.backends.triton import iqe as rows
from qmkernels.backends.triton import iqe_pairwise as pairs


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    for dim_per_component, num_components in ((1, 7), (5, 3), (16, 32), (1024, 1)):
        block_k = triton.next_power_of_2(dim_per_component)
        for reduction in ("maxmean", "none"):
            common = {"K": dim_per_component, "REDUCTION": reduction}
            if reduction != "maxmean":
                common["max_weight_ptr"] = None
            forward = {"HIGHEST": torch.finfo(dtype).max, "KEEP": reduction == "maxmean", **common}
            num_rows, block_c, _ = rows.forward_tile(num_components, dim_per_component)
            tile = {"ROWS": num_rows, "BLOCK_C": block_c, "BLOCK_K": block_k}
            yield rows.iqe_forward_kernel, {**forward, **tile}, 4
            yield rows.iqe_backward_kernel, {**common, **tile}, 4
            block_x, block_y = pairs.pairwise_forward_tile(1000, 1000, dtype.itemsize)
            tile = {"WIDE": False, "BLOCK_X": block_x, "BLOCK_Y": block_y}
            yield pairs.iqe_pairwise_forward_kernel, {**forward, **tile}, 4
            block_x, block_y = pairs.pairwise_backward_tile(1000, 1000, dim_per_component, dtype.itemsize)
            tile = {"WIDE": True, "BLOCK_X": block_x, "BLOCK_Y": block_y, "BLOCK_K": block_k}
            backward = {"HIGHEST": torch.finfo(dtype).max, "SIGN": 1, "stride_x": 1, **common}
            yield pairs.iqe_pairwise_backward_kernel, {**backward, **tile}, 4

"""The launches of temporal consistency that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import temporal_consistency as kernels


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    for size in (5, 512, 3000):
        for masked in ({}, {"mask_ptr": None}):
            yield kernels.temporal_consistency_forward_kernel, {"EPS": kernels.EPS, **kernels.tile(size), **masked}, 4
            yield kernels.temporal_consistency_sums_kernel, {"BLOCK": 16 if size == 5 else 256, **masked}, 4
            yield kernels.temporal_consistency_backward_kernel, kernels.tile(size), 4

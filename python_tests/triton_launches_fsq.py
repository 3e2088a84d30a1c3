"""The launches of finite scalar quantisation that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import fsq as kernels


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    for levels in ([8, 8], [8, 5, 3], [1000] * 6, [2] * 62):
        yield kernels.fsq_forward_kernel, kernels.forward_constants(levels), 4
        yield kernels.fsq_backward_kernel, kernels.backward_constants(levels), 4

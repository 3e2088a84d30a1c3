"""The launches of nearest that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import nearest as kernels


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    yield kernels.nearest_merge_kernel, {"BLOCK": 1024}, 4
    yield kernels.nearest_merge_kernel, {"BLOCK": 16, "k": 1}, 4

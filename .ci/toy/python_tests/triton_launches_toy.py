"""The launches of the toy op that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import toy as kernels


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    yield kernels.toy_forward_kernel, {"BLOCK": kernels.BLOCK}, 4
    yield kernels.toy_backward_kernel, {"BLOCK": kernels.BLOCK}, 4

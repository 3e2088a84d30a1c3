"""The launches of METRA's loss that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import metra as kernels


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    yield kernels.metra_sums_kernel, {"BLOCK": kernels.SUM_BLOCK}, 4
    for dim, norm, sizes in ((1, "mean", {"num_rows": 1, "dim": 1}), (507, "mean", {}), (2048, "sum", {})):
        constants = {**kernels.tile(dim), **sizes}
        yield kernels.metra_forward_kernel, {"NORM": norm, **constants}, 4
        for unneeded in ({}, {"grad_skill_ptr": None}):
            yield kernels.metra_backward_kernel, {**unneeded, **constants}, 4

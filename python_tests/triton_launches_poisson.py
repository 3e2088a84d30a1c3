"""The launches of the Poisson comparisons that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import poisson as kernels
from qmkernels.definitions.poisson import COMPARISONS


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    for form in COMPARISONS:
        constants = {"FORM": form, "BLOCK": kernels.BLOCK}
        yield kernels.poisson_forward_kernel, constants, 4
        yield kernels.poisson_backward_kernel, constants, 4

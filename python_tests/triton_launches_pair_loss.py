"""The launches of the pairwise losses that compile_triton.py compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from compile_triton import Launch

from qmkernels.backends.triton import pair_loss as kernels
from qmkernels.definitions.pair_loss import KINDS, PairLossSettings


def launches(dtype: torch.dtype) -> Iterator[Launch]:
    number, alone = {"log_discounts_ptr": None}, {"after_ptr": None, "log_discounts_ptr": None}
    for kind, missing in (*((kind, {}) for kind in KINDS), ("backward", number), ("symmetric", alone)):
        form = PairLossSettings(kind, 0.05, 0.1, log_discount=-0.01)
        yield kernels.pair_loss_forward_kernel, kernels.forward_constants(form) | missing, 4
        yield kernels.pair_loss_backward_kernel, kernels.backward_constants(form) | missing, 4

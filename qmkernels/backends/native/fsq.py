"""Finite scalar quantisation on the compiled core, CPU and CUDA. The contract: backends/reference/fsq.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from . import core


@cache
def _on_host(levels: tuple[int, ...]) -> Tensor:
    """The levels in the memory of the CPU, where launchers read them, those for GPUs too."""
    with torch.inference_mode(False):
        return torch.tensor(levels, dtype=torch.int64, device="cpu")


def fsq_forward(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    codes = torch.empty_like(z)
    indices = torch.empty((*z.shape[:-1], z.shape[-1] // len(levels)), dtype=torch.int64, device=z.device)
    if z.numel():
        core.launch(
            "fsq_forward", z.device, z.element_size(),
            z, codes, indices, indices.numel(), _on_host(tuple(levels)), len(levels),
        )  # fmt: skip
    return codes, indices


def fsq_backward(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    grad_z = torch.empty_like(z)
    if z.numel():
        groups = z.numel() // len(levels)
        core.launch(
            "fsq_backward", z.device, z.element_size(),
            grad_codes, z, grad_z, groups, _on_host(tuple(levels)), len(levels),
        )  # fmt: skip
    return grad_z

"""Finite scalar quantisation on the compiled core, CPU and CUDA. The contract: backends/reference/fsq.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ...definitions import fsq as definition
from . import core


@cache
def _on_host(levels: tuple[int, ...]) -> Tensor:
    """The levels in the memory of the CPU, where launchers read them, those for GPUs too."""
    with torch.inference_mode(False):
        return torch.tensor(levels, dtype=torch.int64, device="cpu")


def fsq_forward(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    codes, indices = definition.fsq_forward_outputs(z, levels)
    if z.numel():
        core.launch(
            "fsq_forward", z.device, z.element_size(),
            z, codes, indices, indices.numel(), _on_host(tuple(levels)), len(levels),
        )  # fmt: skip
    return codes, indices


def fsq_backward(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    grad_z = definition.fsq_backward_outputs(grad_codes, z, levels)
    if z.numel():
        groups = z.numel() // len(levels)
        core.launch(
            "fsq_backward", z.device, z.element_size(),
            grad_codes, z, grad_z, groups, _on_host(tuple(levels)), len(levels),
        )  # fmt: skip
    return grad_z

"""Finite scalar quantisation on the compiled core, CPU and CUDA. The contract: backends/reference/fsq.py."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...definitions import fsq as definition
from . import core


@core.replayable
def fsq_forward(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    codes, indices = definition.fsq_forward_outputs(z, levels)
    if z.numel():
        core.kernels.fsq_forward(z=z, codes=codes, indices=indices, groups=indices.numel(), levels=levels)
    return codes, indices


@core.replayable
def fsq_backward(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    grad_z = definition.fsq_backward_outputs(grad_codes, z, levels)
    if z.numel():
        groups = z.numel() // len(levels)
        core.kernels.fsq_backward(grad_codes=grad_codes, z=z, grad_z=grad_z, groups=groups, levels=levels)
    return grad_z

"""MRN on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64; x and y of matching rows also bfloat16 or float16
on a backend that loads these (`dispatch.loads_half`): it computes in float32 and rounds their gradients. ``*settings``
are the fields of ``definitions.mrn.MrnSettings`` in order. Backward needs only the inputs: keeping one slope and one
index per component would cost more for every pair than computing them again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments.mrn import MrnSettings
from ...definitions import mrn as definition


def mrn_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    """Returns ``out`` (...), or (..., C) for reduction "none", for x, y (..., D)."""
    return definition.mrn(x, y, MrnSettings(*settings))


def mrn_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Returns ``grad_x`` and ``grad_y`` (..., D)."""
    grad_x = definition.gradient(grad_out, x, y, MrnSettings(*settings))
    return grad_x, -grad_x


def mrn_pairwise_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    """Returns ``out`` (B, N, M), or (B, N, M, C) for reduction "none", for x (B, N, D) and y (B, M, D)."""
    settings = MrnSettings(*settings)
    pairs = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty((*pairs, settings.num_components) if settings.reduction == "none" else pairs)
    for i in range(x.shape[1]):
        out[:, i] = definition.mrn(x[:, i : i + 1], y, settings)
    return out


def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Returns ``grad_x`` (B, N, D) and ``grad_y`` (B, M, D)."""
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    for i in range(x.shape[1]):
        grad = definition.gradient(grad_out[:, i], x[:, i : i + 1], y, MrnSettings(*settings))
        grad_x[:, i] = grad.sum(dim=1)
        grad_y -= grad
    return grad_x, grad_y

"""Finite scalar quantisation in plain PyTorch: the definition of the op ``fsq``.

The last dimension consists of groups of n values; a tanh bounds value j of a group, which is rounded to one of
``levels[j]`` numbers. For even counts the tanh is shifted so that 0 stays the middle of a level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..arguments.fsq import constants
from .shapes import empty


def _row(values: Iterable[float], like: Tensor) -> Tensor:
    """Returns numbers as a tensor, filled on the device, because copying them would wait for it."""
    return torch.stack([like.new_full((), value) for value in values])


def _groups(z: Tensor, levels: Sequence[int]) -> Tensor:
    return z.unflatten(-1, (z.shape[-1] // len(levels), len(levels)))


def fsq(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns codes (..., G * n) and the groups' indices (..., G), -1 if a value of the group is NaN."""
    shift, half, offset, width, place = zip(*constants(levels), strict=True)
    bounded = (_groups(z, levels) + _row(shift, z)).tanh() * _row(half, z) - _row(offset, z)
    width = _row(width, z)
    level = bounded.round() + width
    index = sum(level[..., j].nan_to_num(0).to(torch.int64) * place[j] for j in range(len(place)))
    return ((level - width) / width).flatten(-2), index.masked_fill(level.isnan().any(dim=-1), -1)


def straight_through(z: Tensor, levels: Sequence[int]) -> Tensor:
    """Computes the codes without rounding and offset: a smooth function whose derivative replaces that of the codes."""
    shift, half, _, width, _ = zip(*constants(levels), strict=True)
    return ((_groups(z, levels) + _row(shift, z)).tanh() * (_row(half, z) / _row(width, z))).flatten(-2)


def gradient(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    """Returns the derivative of (grad_codes * straight_through(z)).sum() by z."""
    shift, half, _, width, _ = zip(*constants(levels), strict=True)
    slope = 1 - (_groups(z, levels) + _row(shift, z)).tanh().square()
    return grad_codes * (slope * (_row(half, z) / _row(width, z))).flatten(-2)


def codes(indices: Tensor, levels: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns the codes (..., G * n) of indices (..., G); NaN for an index that `fsq` never gives."""
    parts = [
        ((indices.div(digit.place, rounding_mode="floor") % count) - digit.width).to(dtype) / digit.width
        for digit, count in zip(constants(levels), levels, strict=True)
    ]
    is_index = (indices >= 0) & (indices < math.prod(levels))
    return torch.stack(parts, dim=-1).masked_fill(~is_index.unsqueeze(-1), torch.nan).flatten(-2)


def fsq_forward_outputs(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    *rows, size = z.shape
    return empty(z, *z.shape), z.new_empty(*rows, size // len(levels), dtype=torch.int64)


def fsq_backward_outputs(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    return torch.empty_like(z)

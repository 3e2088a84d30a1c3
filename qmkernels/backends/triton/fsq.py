"""Finite scalar quantisation in Triton: the functions of backends/reference/fsq.py, in the same order.

A tile holds whole groups, one per row, with the levels padded to a power of two. The levels are constants of the
kernel, which is compiled once per list of levels. Bound by memory: forward reads z and writes codes and indices,
backward reads two tensors and writes one. Arithmetic in the input's dtype, float32 for half precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import fsq as definition

TILE_VALUES = 1024


@triton.jit
def _exponential(u):
    """Returns e = e^(-2 |u|), so that tanh |u| = (1 - e) / (1 + e)."""
    return tl.exp(-2 * tl.abs(u))


@triton.jit
def _row(VALUES: tl.constexpr, column, NUM_LEVELS: tl.constexpr, dtype: tl.constexpr):
    """Returns VALUES, a tuple of constants, as a row; further columns are 1."""
    row = tl.full(column.shape, 1, dtype)
    for j in tl.static_range(NUM_LEVELS):
        row = tl.where(column == j, tl.full(column.shape, VALUES[j], dtype), row)
    return row[None, :]


@triton.jit
def fsq_forward_kernel(
    z_ptr,  # (num_groups, NUM_LEVELS)
    codes_ptr,  # (num_groups, NUM_LEVELS)
    indices_ptr,  # int64 (num_groups), -1 if a value is NaN
    num_groups,
    SHIFT: tl.constexpr,  # the constants of definitions/fsq.py
    HALF: tl.constexpr,
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACE: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    ROWS: tl.constexpr,  # groups per program
    BLOCK: tl.constexpr,  # a power of two, at least NUM_LEVELS
):
    dtype: tl.constexpr = codes_ptr.dtype.element_ty
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    here = group[:, None] * NUM_LEVELS + column[None, :]
    mask = (group < num_groups)[:, None] & (column < NUM_LEVELS)[None, :]
    z = tl.load(z_ptr + here, mask=mask, other=0).to(dtype)
    u = z + _row(SHIFT, column, NUM_LEVELS, dtype)
    e = _exponential(u)
    size = (1 - e) / (1 + e)
    bounded = tl.where(u < 0, -size, size) * _row(HALF, column, NUM_LEVELS, dtype)
    bounded -= _row(OFFSET, column, NUM_LEVELS, dtype)
    # Adding 1.5 * 2^(bits of the mantissa) leaves no bits for a fraction, so the addition rounds, half to even.
    width = _row(WIDTH, column, NUM_LEVELS, dtype)
    if dtype == tl.float32:
        digit = (bounded + 12582912.0) - 12582912.0
        code = tl.div_rn(digit, tl.broadcast_to(width, digit.shape))  # `/` rounds differently on some devices
    else:
        digit = (bounded + 6755399441055744.0) - 6755399441055744.0
        code = digit / width
    is_nan = mask & (bounded != bounded)
    level = tl.where(mask & (bounded == bounded), digit + width, 0).to(tl.int64)
    index = tl.sum(level * _row(PLACE, column, NUM_LEVELS, tl.int64), axis=1)
    index = tl.where(tl.max(is_nan.to(tl.int32), axis=1) > 0, -1, index)
    tl.store(codes_ptr + here, code, mask=mask)
    tl.store(indices_ptr + group, index, mask=group < num_groups)


@triton.jit
def fsq_backward_kernel(
    grad_codes_ptr,  # (num_groups, NUM_LEVELS)
    z_ptr,  # (num_groups, NUM_LEVELS)
    grad_z_ptr,  # (num_groups, NUM_LEVELS)
    num_groups,
    SHIFT: tl.constexpr,
    GAIN: tl.constexpr,  # 4 half / width
    NUM_LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    dtype: tl.constexpr = grad_codes_ptr.dtype.element_ty
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    here = group[:, None] * NUM_LEVELS + column[None, :]
    mask = (group < num_groups)[:, None] & (column < NUM_LEVELS)[None, :]
    z = tl.load(z_ptr + here, mask=mask, other=0).to(dtype)
    grad = tl.load(grad_codes_ptr + here, mask=mask, other=0)
    # 1 - tanh^2 = 4 e / (1 + e)^2, without cancellation.
    e = _exponential(z + _row(SHIFT, column, NUM_LEVELS, dtype))
    slope = _row(GAIN, column, NUM_LEVELS, dtype) * e / ((1 + e) * (1 + e))
    tl.store(grad_z_ptr + here, grad * slope, mask=mask)


def _forward_constants(levels: Sequence[int]) -> dict:
    """Returns the forward kernel's arguments, except pointers and the number of groups."""
    shift, half, offset, width, place = zip(*definition.constants(levels), strict=True)
    return {"SHIFT": shift, "HALF": half, "OFFSET": offset, "WIDTH": width, "PLACE": place, **_tile(levels)}


def _backward_constants(levels: Sequence[int]) -> dict:
    """Returns those of the backward kernel."""
    parts = definition.constants(levels)
    gain = tuple(4 * constants.half / constants.width for constants in parts)
    return {"SHIFT": tuple(constants.shift for constants in parts), "GAIN": gain, **_tile(levels)}


def _tile(levels: Sequence[int]) -> dict[str, int]:
    block = triton.next_power_of_2(len(levels))
    return {"NUM_LEVELS": len(levels), "ROWS": TILE_VALUES // block, "BLOCK": block}


def fsq_forward(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    codes, indices = definition.fsq_forward_outputs(z, levels)
    if z.numel() > 0:
        constants = _forward_constants(levels)
        with torch.cuda.device_of(z):
            fsq_forward_kernel[(triton.cdiv(indices.numel(), constants["ROWS"]),)](
                z, codes, indices, indices.numel(), **constants
            )
    return codes, indices


def fsq_backward(grad_codes: Tensor, z: Tensor, levels: Sequence[int]) -> Tensor:
    grad_z = definition.fsq_backward_outputs(grad_codes, z, levels)
    if z.numel() > 0:
        constants = _backward_constants(levels)
        num_groups = z.numel() // len(levels)
        with torch.cuda.device_of(z):
            fsq_backward_kernel[(triton.cdiv(num_groups, constants["ROWS"]),)](
                grad_codes, z, grad_z, num_groups, **constants
            )
    return grad_z


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for levels in ([8, 8], [8, 5, 3], [1000] * 6, [2] * 62):
        yield fsq_forward_kernel, _forward_constants(levels) | {"indices_ptr": torch.int64}
        yield fsq_backward_kernel, _backward_constants(levels)
    if dtype is torch.float32:
        half = dict.fromkeys(("z_ptr", "grad_z_ptr"), torch.bfloat16)
        yield fsq_forward_kernel, half | _forward_constants([8, 8]) | {"indices_ptr": torch.int64}
        yield fsq_backward_kernel, half | _backward_constants([8, 8])

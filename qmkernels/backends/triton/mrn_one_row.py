"""The gradients of MRN's pairs with a single row (one_row.py).

Precision: as in mrn.py; sums over more than 16 of the many rows are in double, in a fixed order.

Cost: reads the many once, writes their gradient once and 1 / 16 of it as parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.mrn import MrnSettings
from .mrn_components import COMPILED, constants, gradient_by_x
from .one_row import OneRow, add_parts
from .tiles import component_offsets, component_tile


@triton.jit
def mrn_one_row_backward_kernel(
    grad_out_ptr,  # (batch, rows_per_matrix), with BY_COMPONENT (batch, rows_per_matrix, C)
    many_ptr,  # (batch, rows_per_matrix, C, S)
    one_ptr,  # (batch, C, S)
    grad_many_ptr,  # (batch, rows_per_matrix, C, S)
    parts_ptr,  # (batch, parts, C, S): sums of the one row's gradient
    rows_per_matrix,
    num_components,
    SIGN: tl.constexpr,  # 1: the many are x; -1: y
    WEIGHT: tl.constexpr,  # the scale, and for reduction "mean" 1 / C
    S: tl.constexpr,  # values per component
    FIRST_A: tl.constexpr,  # the asymmetric part's values
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,  # the symmetric part's values
    END_B: tl.constexpr,
    COUNT: tl.constexpr,  # divisor of the sum of squares
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
    BY_COMPONENT: tl.constexpr,  # reduction "none"
    TILES: tl.constexpr,  # of ROWS rows, per program
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    dtype: tl.constexpr = many_ptr.dtype.element_ty
    parts = tl.cdiv(rows_per_matrix, TILES * ROWS)
    matrix = (tl.program_id(0) // parts).to(tl.int64)
    first = tl.program_id(0) % parts * (TILES * ROWS)
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_exists = component < num_components
    once = tl.zeros((1,), tl.int64)
    there, is_value = component_offsets(matrix + once, component, num_components, S, BLOCK_S)
    one = tl.load(one_ptr + there, mask=c_exists[None, :, None] & is_value, other=0)

    total = tl.zeros((1, BLOCK_C, BLOCK_S), dtype)  # of the many's gradient
    for tile in range(TILES):
        in_matrix = first + tile * ROWS + tl.arange(0, ROWS)
        row, row_exists = matrix * rows_per_matrix + in_matrix, in_matrix < rows_per_matrix
        exists = row_exists[:, None] & c_exists[None, :]
        here, _ = component_offsets(row, component, num_components, S, BLOCK_S)
        mask = exists[:, :, None] & is_value
        difference = tl.where(mask, tl.load(many_ptr + here, mask=mask, other=0) - one, 0.0) * SIGN
        if BY_COMPONENT:
            weight = tl.load(grad_out_ptr + row[:, None] * num_components + component[None, :], mask=exists, other=0)
        else:
            weight = tl.load(grad_out_ptr + row, mask=row_exists, other=0)[:, None]
        grad = SIGN * gradient_by_x(
            weight * WEIGHT, difference, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS, EPS_FORM, EXPONENT
        )
        tl.store(grad_many_ptr + here, grad, mask=mask)
        total += tl.sum(grad, axis=0, keep_dims=True)
    place, _ = component_offsets(tl.program_id(0) + once, component, num_components, S, BLOCK_S)
    tl.store(parts_ptr + place, -total, mask=c_exists[None, :, None] & is_value)


def write_gradients(
    one: OneRow, grad_out: Tensor, x: Tensor, y: Tensor, settings: MrnSettings, grad_x: Tensor, grad_y: Tensor
) -> None:
    num_components, size = settings.num_components, x.shape[-1] // settings.num_components
    tile = component_tile(num_components, size)
    many_and_one, grad_many, grad_one = ((y, x), grad_y, grad_x) if one.is_x else ((x, y), grad_x, grad_y)
    parts, tiles = one.parts(grad_one, tile.rows)
    with torch.cuda.device_of(x):
        mrn_one_row_backward_kernel[parts.shape[:2].numel(), triton.cdiv(num_components, tile.block_c)](
            grad_out,
            *many_and_one,
            grad_many,
            parts,
            one.count,
            num_components,
            SIGN=-1 if one.is_x else 1,
            TILES=tiles,
            **constants(settings, size),
            **tile.constants("BLOCK_S"),
        )
    add_parts(parts, grad_one)


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for settings, size in COMPILED:
        arguments = constants(settings, size) | component_tile(settings.num_components, size).constants("BLOCK_S")
        yield mrn_one_row_backward_kernel, arguments | {"SIGN": -1, "TILES": 8}

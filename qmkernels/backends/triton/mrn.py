"""MRN in Triton: the functions of backends/reference/mrn.py, in the same order.

Precision: all arithmetic in the input's dtype, float32 for half precision, except that powers other than squares and
roots are taken in double; no atomics, so the same input gives the same bits.

Cost: forward reads x and y once and writes one number per row; backward reads both once and writes both gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.mrn import MrnSettings
from ...definitions import mrn as definition
from . import mrn_one_row, mrn_pairwise
from .mrn_components import COMPILED, constants, row_distance, store_row_gradients
from .one_row import one_row_of
from .tiles import component_tile


@triton.jit
def mrn_forward_kernel(
    x_ptr,  # (num_rows / rows_per_x, C, S)
    y_ptr,  # (num_rows / rows_per_y, C, S)
    out_ptr,  # (num_rows), with BY_COMPONENT (num_rows, C)
    num_rows,
    rows_per_x,  # neighbouring rows that share a row of x
    rows_per_y,
    num_components,
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
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    distance = row_distance(
        x_ptr, y_ptr, out_ptr, row, num_rows, num_components, WEIGHT, S, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS,
        EPS_FORM, EXPONENT, BY_COMPONENT, ROWS, BLOCK_C, BLOCK_S, rows_per_x, rows_per_y,
    )  # fmt: skip
    if not BY_COMPONENT:
        tl.store(out_ptr + row, distance, mask=row < num_rows)


@triton.jit
def mrn_backward_kernel(
    grad_out_ptr,  # (num_rows), with BY_COMPONENT (num_rows, C)
    x_ptr,  # (num_rows, C, S)
    y_ptr,  # (num_rows, C, S)
    grad_x_ptr,  # (num_rows, C, S)
    grad_y_ptr,  # (num_rows, C, S)
    num_rows,
    num_components,
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
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    if BY_COMPONENT:
        exists = (row < num_rows)[:, None] & (component < num_components)[None, :]
        weight = tl.load(grad_out_ptr + row[:, None] * num_components + component[None, :], mask=exists, other=0)
    else:
        weight = tl.load(grad_out_ptr + row, mask=row < num_rows, other=0)[:, None]
    store_row_gradients(
        weight * WEIGHT, x_ptr, y_ptr, grad_x_ptr, grad_y_ptr, row, component, num_rows, num_components, S, FIRST_A,
        END_A, FIRST_B, END_B, COUNT, EPS, EPS_FORM, EXPONENT, BLOCK_S,
    )  # fmt: skip


def _forward(
    x: Tensor, y: Tensor, out: Tensor, num_rows: int, sharing_a_row: tuple[int, int], settings: MrnSettings
) -> None:
    """Writes ``out``; ``sharing_a_row``: how many neighbouring rows share one of x, and how many one of y."""
    num_components, size = settings.num_components, x.shape[-1] // settings.num_components
    tile = component_tile(num_components, size)
    with torch.cuda.device_of(x):
        mrn_forward_kernel[(triton.cdiv(num_rows, tile.rows),)](
            x,
            y,
            out,
            num_rows,
            *sharing_a_row,
            num_components,
            **constants(settings, size),
            **tile.constants("BLOCK_S"),
        )


def mrn_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    out, num_rows = definition.mrn_forward_outputs(x, y, *settings), x.shape[:-1].numel()
    if num_rows > 0:
        _forward(x, y, out, num_rows, (1, 1), MrnSettings(*settings))
    return out


def mrn_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    settings = MrnSettings(*settings)
    num_rows, num_components = x.shape[:-1].numel(), settings.num_components
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    if num_rows == 0:
        return grad_x, grad_y
    size = x.shape[-1] // num_components
    tile = component_tile(num_components, size)
    with torch.cuda.device_of(x):
        mrn_backward_kernel[(triton.cdiv(num_rows, tile.rows), triton.cdiv(num_components, tile.block_c))](
            grad_out,
            x,
            y,
            grad_x,
            grad_y,
            num_rows,
            num_components,
            **constants(settings, size),
            **tile.constants("BLOCK_S"),
        )
    return grad_x, grad_y


def mrn_pairwise_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    one = one_row_of(x, y)
    if one is None:
        return mrn_pairwise.mrn_pairwise_forward(x, y, *settings)
    out = definition.mrn_pairwise_forward_outputs(x, y, *settings)
    if one.num_rows > 0:
        _forward(x, y, out, one.num_rows, one.sharing, MrnSettings(*settings))
    return out


def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    one = one_row_of(x, y)
    if one is None or one.num_rows == 0:
        return mrn_pairwise.mrn_pairwise_backward(grad_out, x, y, *settings)
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    mrn_one_row.write_gradients(one, grad_out, x, y, MrnSettings(*settings), grad_x, grad_y)
    return grad_x, grad_y


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for settings, size in COMPILED:
        tile = component_tile(settings.num_components, size)
        arguments = constants(settings, size) | tile.constants("BLOCK_S") | {"rows_per_x": 1, "rows_per_y": 1}
        yield mrn_forward_kernel, arguments
        yield mrn_backward_kernel, arguments
    yield mrn_forward_kernel, arguments | {"rows_per_y": 1500}
    if dtype is torch.float32:
        arguments |= dict.fromkeys(("x_ptr", "y_ptr", "grad_x_ptr", "grad_y_ptr"), torch.bfloat16)
        yield mrn_forward_kernel, arguments
        yield mrn_backward_kernel, arguments

"""MRN's pairwise functions in Triton.

Precision: as in mrn.py; sums of squares and over the other side are taken in parts, in a fixed order.

Cost, for N and M points of D values:

- forward takes 2 operations per element of N * M * D: difference, and maximum or square. Its only workspace is x and y
  transposed.
- backward runs once for grad_x and once for grad_y: a program keeps its own points and their gradient and visits all
  points of the other side, with some 8 operations per element.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.mrn import MrnSettings
from ...definitions import mrn as definition
from .mrn_components import COMPILED, constants, gradient_by_x, symmetric_part
from .tiles import ROWS_A_PART, component_offsets, own_rows, own_tile, pair_tile, pairs_of_program

VALUES_A_PART = tl.constexpr(32)


@triton.jit
def mrn_pairwise_forward_kernel(
    x_by_point_ptr,  # (batch, C, S, num_x)
    y_by_point_ptr,  # (batch, C, S, num_y)
    out_ptr,  # (batch, num_x, num_y), with BY_COMPONENT (batch, num_x, num_y, C)
    num_x,
    num_y,
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
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    dtype: tl.constexpr = x_by_point_ptr.dtype.element_ty
    eps = tl.full((), EPS, dtype)
    sample, i, j = pairs_of_program(num_x, num_y, BLOCK_X, BLOCK_Y)
    i_exists, j_exists = i < num_x, j < num_y
    exists = i_exists[:, None] & j_exists[None, :]
    pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
    # Addresses of the component's values s = 0.
    x_line = x_by_point_ptr + sample * num_components * S * num_x + i
    y_line = y_by_point_ptr + sample * num_components * S * num_y + j
    wide_x, wide_y = tl.cast(num_x, tl.int64), tl.cast(num_y, tl.int64)

    total = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
    for component in range(num_components):
        # max_A relu(x - y) + (sum_B (x - y)^2) ** (p / 2)
        # The symmetric part goes first, so that registers hold three numbers of a pair at a time, not four.
        symmetric = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
        if FIRST_B != END_B:
            for first in range(FIRST_B, END_B, VALUES_A_PART):
                some = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
                for s in range(first, tl.minimum(first + VALUES_A_PART, END_B)):
                    x = tl.load(x_line + s * wide_x, mask=i_exists, other=0)[:, None]
                    y = tl.load(y_line + s * wide_y, mask=j_exists, other=0)[None, :]
                    difference = x - y
                    if EPS_FORM == "difference":
                        difference += eps
                    some += difference * difference
                symmetric += some
            symmetric = symmetric_part(symmetric, COUNT, EPS, EPS_FORM, EXPONENT)
        asymmetric = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
        for s in range(FIRST_A, END_A):
            x = tl.load(x_line + s * wide_x, mask=i_exists, other=0)[:, None]
            y = tl.load(y_line + s * wide_y, mask=j_exists, other=0)[None, :]
            asymmetric = tl.maximum(asymmetric, x - y, propagate_nan=tl.PropagateNan.ALL)
        part = asymmetric + symmetric
        x_line += S * wide_x
        y_line += S * wide_y
        if BY_COMPONENT:
            tl.store(out_ptr + pair * num_components + component, part * WEIGHT, mask=exists)
        else:
            total += part
    if not BY_COMPONENT:
        tl.store(out_ptr + pair, total * WEIGHT, mask=exists)


@triton.jit
def mrn_pairwise_backward_kernel(
    grad_out_ptr,  # (batch, num_x, num_y), with BY_COMPONENT (batch, num_x, num_y, C); strides below
    own_ptr,  # (batch, num_own, C, S): x for its gradient, y for its gradient
    other_ptr,  # (batch, num_other, C, S)
    grad_ptr,  # (batch, num_own, C, S)
    num_own,
    num_other,
    num_components,
    stride_own,  # pairs from one of the own points to the next
    stride_other,
    SIGN: tl.constexpr,  # 1: the gradient by x; -1: by y
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
    ROWS: tl.constexpr,  # own points per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    dtype: tl.constexpr = own_ptr.dtype.element_ty
    sample, i, component = own_rows(num_own, num_components, ROWS, BLOCK_C)
    c_exists = component < num_components
    exists = (i < num_own)[:, None] & c_exists[None, :]
    here, is_value = component_offsets(sample * num_own + i, component, num_components, S, BLOCK_S)
    mask = exists[:, :, None] & is_value
    own = tl.load(own_ptr + here, mask=mask, other=0)
    first_pair = sample * num_own * num_other + i.to(tl.int64) * stride_own

    grad = tl.zeros((ROWS, BLOCK_C, BLOCK_S), dtype)
    for first in range(0, num_other, ROWS_A_PART):
        some = tl.zeros((ROWS, BLOCK_C, BLOCK_S), dtype)
        for j in range(first, tl.minimum(first + ROWS_A_PART, num_other)):
            row = sample * num_other + j + tl.zeros((1,), tl.int64)
            there, _ = component_offsets(row, component, num_components, S, BLOCK_S)
            other = tl.load(other_ptr + there, mask=c_exists[None, :, None] & is_value, other=0)
            difference = (own - other) * SIGN
            pair = first_pair + tl.cast(j, tl.int64) * stride_other
            if BY_COMPONENT:
                place = pair[:, None] * num_components + component[None, :]
                weight = tl.load(grad_out_ptr + place, mask=exists, other=0)
            else:
                weight = tl.load(grad_out_ptr + pair, mask=i < num_own, other=0)[:, None]
            some += gradient_by_x(
                weight * WEIGHT, difference, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS, EPS_FORM, EXPONENT
            )
        grad += some
    tl.store(grad_ptr + here, grad * SIGN, mask=mask)


def mrn_pairwise_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    settings = MrnSettings(*settings)
    batch, num_x, num_y = x.shape[0], x.shape[1], y.shape[1]
    out = definition.mrn_pairwise_forward_outputs(x, y, *settings)
    if out.numel() == 0:
        return out
    block_x, block_y = pair_tile(num_x, num_y, x.element_size())
    with torch.cuda.device_of(x):
        mrn_pairwise_forward_kernel[(batch * triton.cdiv(num_x, block_x) * triton.cdiv(num_y, block_y),)](
            x.mT.contiguous(),
            y.mT.contiguous(),
            out,
            num_x,
            num_y,
            settings.num_components,
            **constants(settings, x.shape[-1] // settings.num_components),
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
        )
    return out


def _write_gradient(
    grad: Tensor,
    grad_out: Tensor,
    strides: tuple[int, int],
    own: Tensor,
    other: Tensor,
    settings: MrnSettings,
    sign: int,
) -> None:
    """Writes the gradient by x (own, sign 1) or y (own, sign -1); ``strides``: of pairs, along own and other points."""
    batch, num_own, num_other = own.shape[0], own.shape[1], other.shape[1]
    if batch * num_own * num_other == 0:
        grad.zero_()
        return
    size = own.shape[-1] // settings.num_components
    tile = own_tile(num_own, settings.num_components, size)
    num_programs = batch * triton.cdiv(num_own, tile.rows) * triton.cdiv(settings.num_components, tile.block_c)
    with torch.cuda.device_of(own):
        mrn_pairwise_backward_kernel[(num_programs,)](
            grad_out,
            own,
            other,
            grad,
            num_own,
            num_other,
            settings.num_components,
            *strides,
            SIGN=sign,
            **constants(settings, size),
            **tile.constants("BLOCK_S"),
        )


def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    settings, num_y = MrnSettings(*settings), y.shape[1]
    _write_gradient(grad_x, grad_out, (num_y, 1), x, y, settings, sign=1)
    _write_gradient(grad_y, grad_out, (1, num_y), y, x, settings, sign=-1)
    return grad_x, grad_y


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    block_x, block_y = pair_tile(1000, 1000, dtype.itemsize)
    for settings, size in COMPILED:
        arguments = constants(settings, size)
        yield mrn_pairwise_forward_kernel, arguments | {"BLOCK_X": block_x, "BLOCK_Y": block_y}
        tile = own_tile(1000, settings.num_components, size)
        yield mrn_pairwise_backward_kernel, arguments | {"SIGN": -1, "stride_own": 1} | tile.constants("BLOCK_S")

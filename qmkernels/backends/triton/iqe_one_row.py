"""The gradients of IQE's pairs with a single row (one_row.py), from the ends that a forward pass keeps.

Precision: as in iqe.py; sums over more than 16 of the many rows are in double, in a fixed order.

Cost: reads D / 4 bytes of ends per row, writes the gradient of the many once and 1 / 16 of it as parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .iqe_components import sharing, weights_of
from .iqe_rows import end_gradients, gradient_by_length, row_tile
from .one_row import OneRow, add_parts


@triton.jit
def iqe_one_row_backward_kernel(
    grad_out_ptr,  # (batch, rows_per_matrix), for reduction "none" (batch, rows_per_matrix, C)
    ends_ptr,  # uint8 (batch, rows_per_matrix, C, ceil(2K / 8))
    largest_ptr,  # int32 (batch, rows_per_matrix), for a reduction by the maximum
    max_weight_ptr,  # (num_weights,): None unless maxmean
    grad_many_ptr,  # (batch, rows_per_matrix, C * K)
    parts_ptr,  # (batch, parts, C * K): sums of the one row's gradient
    rows_per_matrix,
    matrices_per_weight,
    num_components,
    ONE_IS_X: tl.constexpr,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,  # one of definitions.iqe.WEIGHT_LINKS
    TILES: tl.constexpr,  # of ROWS rows, per program
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    dtype: tl.constexpr = grad_out_ptr.dtype.element_ty
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    parts = tl.cdiv(rows_per_matrix, TILES * ROWS)
    matrix = (tl.program_id(0) // parts).to(tl.int64)
    first = tl.program_id(0) % parts * (TILES * ROWS)
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :, None]
    k = tl.arange(0, BLOCK_K)[None, None, :]
    every, on_top = weights_of(max_weight_ptr, matrix // matrices_per_weight, num_components, dtype, REDUCTION, LINK)

    of_one = tl.zeros((1, BLOCK_C, BLOCK_K), dtype)
    for tile in range(TILES):
        in_matrix = first + tile * ROWS + tl.arange(0, ROWS)[:, None, None]
        row_exists = in_matrix < rows_per_matrix
        exists = row_exists & (component < num_components)
        row = matrix * rows_per_matrix + in_matrix
        weight = gradient_by_length(
            grad_out_ptr, largest_ptr, row, component, row_exists, exists, num_components, every, on_top, REDUCTION
        )
        at = row * num_components + component
        grad_x, grad_y = end_gradients(ends_ptr + at * NUM_BYTES, weight, exists, K, BLOCK_K)
        tl.store(grad_many_ptr + (at * K + k), grad_y if ONE_IS_X else grad_x, mask=exists & (k < K))
        of_one += tl.sum(grad_x if ONE_IS_X else grad_y, axis=0, keep_dims=True)
    place = tl.program_id(0).to(tl.int64) * num_components + component
    tl.store(parts_ptr + (place * K + k), of_one, mask=(component < num_components) & (k < K))


def _constants(one: OneRow, num_components: int, dim_per_component: int, reduction: str, weight_link: str) -> dict:
    settings = {"ONE_IS_X": one.is_x, "K": dim_per_component, "REDUCTION": reduction, "LINK": weight_link}
    return settings | row_tile(num_components, dim_per_component)


def write_gradients(
    one: OneRow,
    grad_out: Tensor,
    ends: Tensor,
    largest: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    grad_x: Tensor,
    grad_y: Tensor,
) -> None:
    num_components = grad_x.shape[-1] // dim_per_component
    constants = _constants(one, num_components, dim_per_component, reduction, weight_link)
    grad_one, grad_many = (grad_x, grad_y) if one.is_x else (grad_y, grad_x)
    parts, tiles = one.parts(grad_one, constants["ROWS"])
    blocks = parts.shape[:2].numel(), triton.cdiv(num_components, constants["BLOCK_C"])
    with torch.cuda.device_of(grad_out):
        iqe_one_row_backward_kernel[blocks](
            grad_out,
            ends,
            largest,
            max_weight,
            grad_many,
            parts,
            one.count,
            sharing(max_weight, one.batch),
            num_components,
            TILES=tiles,
            **constants,
        )
    add_parts(parts, grad_one)


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for dim_per_component, num_components, reduction in ((8, 64, "maxmean"), (5, 3, "none"), (1024, 1, "sum")):
        arguments = _constants(OneRow(8, 1500, True), num_components, dim_per_component, reduction, "sigmoid")
        arguments |= {"TILES": 8, "ends_ptr": torch.uint8, "largest_ptr": torch.int32}
        arguments["max_weight_ptr"] = dtype if reduction == "maxmean" else None
        yield iqe_one_row_backward_kernel, arguments

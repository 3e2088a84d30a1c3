"""IQE in Triton: the functions of backends/reference/iqe.py, in the same order.

Precision: all arithmetic, including sums over components, is in the input's dtype (float32 or float64); no atomics, so
the same input gives the same bits.

Cost, for D = C * K values per row:

- forward reads x and y once and writes one number per row, and with ``keep`` D / 4 bytes per row. It compares all pairs
  of intervals in a component (about 6 K operations per element, with ends 12 K), so it needs no sort.
- backward reads D / 4 bytes per row and writes both gradients once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import iqe as definition
from .iqe_components import finite_or_nan, reduced, weighted, weights_and_run, weights_of
from .iqe_pairwise import iqe_pairwise_backward, iqe_pairwise_forward
from .tiles import tile_for

__all__ = ["iqe_backward", "iqe_forward", "iqe_pairwise_backward", "iqe_pairwise_forward"]


@triton.jit
def _store_ends(
    ends_ptr,  # (ROWS, BLOCK_C, 1): the components' first bytes
    left,  # (ROWS, BLOCK_C, BLOCK_K)
    right,  # (ROWS, BLOCK_C, BLOCK_K)
    component_exists,  # (ROWS, BLOCK_C, 1)
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    K: tl.constexpr,
):
    k = tl.arange(0, BLOCK_K)[None, None, :]
    if K % 8 == 0:
        # Full bytes of left ends, then full bytes of right ends.
        byte = tl.arange(0, BLOCK_K // 8)[None, None, :]
        exists = component_exists & (byte < K // 8)
        shape: tl.constexpr = (ROWS, BLOCK_C, BLOCK_K // 8, 8)
        left_bytes = tl.sum(tl.reshape(left.to(tl.int32) << (k % 8), shape), axis=3)
        right_bytes = tl.sum(tl.reshape(right.to(tl.int32) << (k % 8), shape), axis=3)
        tl.store(ends_ptr + byte, left_bytes.to(tl.uint8), mask=exists)
        tl.store(ends_ptr + K // 8 + byte, right_bytes.to(tl.uint8), mask=exists)
    else:
        for byte in range((2 * K + 7) // 8):
            left_bits = tl.where(k // 8 == byte, left.to(tl.int32) << (k % 8), 0)
            right_bits = tl.where((K + k) // 8 == byte, right.to(tl.int32) << ((K + k) % 8), 0)
            bits = tl.sum(left_bits + right_bits, axis=2, keep_dims=True)
            tl.store(ends_ptr + byte, bits.to(tl.uint8), mask=component_exists)


@triton.jit
def iqe_forward_kernel(
    x_ptr,  # (num_rows, C * K)
    y_ptr,  # (num_rows, C * K)
    weights_ptr,  # (num_weights,): None unless maxmean
    out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8)), with KEEP
    largest_ptr,  # int32 (num_rows), with KEEP and a reduction by the maximum
    spread_ptr,  # (num_rows), with KEEP and maxmean
    num_rows,
    rows_per_weight,
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    highest = tl.full((), HIGHEST, dtype)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_exists = row < num_rows
    k = tl.arange(0, BLOCK_K)[None, None, :]

    total = tl.zeros((ROWS,), dtype)
    greatest = tl.full((ROWS,), -1, dtype)
    largest = tl.zeros((ROWS,), tl.int32)
    for first_component in range(0, num_components, BLOCK_C):
        component = first_component + tl.arange(0, BLOCK_C)
        exists = row_exists[:, None] & (component < num_components)[None, :]
        start = (row[:, None] * num_components + component[None, :]) * K
        here = start[:, :, None] + k
        # Beyond K x = y = 0, an empty interval, which adds nothing.
        mask = exists[:, :, None] & (k < K)
        x = finite_or_nan(tl.load(x_ptr + here, mask=mask, other=0), highest)
        y = finite_or_nan(tl.load(y_ptr + here, mask=mask, other=0), highest)

        # furthest_k = max y_j over j before k: x_j < x_k, or x_j = x_k and j < k
        # nearest_k = min x_j over j beyond k, the mirror image: y_j > y_k, or y_j = y_k and j < k
        furthest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) - highest
        nearest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) + highest
        for j in range(K):
            x_j = finite_or_nan(tl.load(x_ptr + start + j, mask=exists, other=0), highest)[:, :, None]
            y_j = finite_or_nan(tl.load(y_ptr + start + j, mask=exists, other=0), highest)[:, :, None]
            before = (x_j < x) | ((x_j == x) & (j < k))
            furthest = tl.where(before & (y_j > furthest), y_j, furthest)
            if KEEP:
                beyond = (y_j > y) | ((y_j == y) & (j < k))
                nearest = tl.where(beyond & (x_j < nearest), x_j, nearest)

        # begin_k = max(x_k, furthest_k),  length = sum_k relu(y_k - begin_k)
        begin = tl.where(furthest > x, furthest, x)
        # Written so that an unordered comparison keeps NaN.
        length = tl.sum(tl.where(y <= begin, tl.zeros_like(y), y - begin), axis=2)
        if KEEP:
            left = (y > begin) & (x >= furthest)
            right = (x < y) & (x < nearest) & (y <= nearest)
            # A component with NaN: mark every x and no y.
            has_nan = (length != length)[:, :, None]
            left = (left | has_nan) & (k < K)
            right = right & (length == length)[:, :, None]
            ends = ends_ptr + (row[:, None] * num_components + component[None, :]) * NUM_BYTES
            _store_ends(ends[:, :, None], left, right, exists[:, :, None], ROWS, BLOCK_C, BLOCK_K, K)

        if REDUCTION == "none":
            tl.store(out_ptr + row[:, None] * num_components + component[None, :], length, mask=exists)
        else:
            total += tl.sum(length, axis=1)
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            ranked = tl.where(length == length, length, float("inf"))
            ranked = tl.where(exists, ranked, -1.0)
            block_greatest, block_largest = tl.max(ranked, axis=1, return_indices=True)
            largest = tl.where(block_greatest > greatest, first_component + block_largest, largest)
            greatest = tl.where(block_greatest > greatest, block_greatest, greatest)

    if REDUCTION != "none":
        place = tl.minimum(row, num_rows - 1) // rows_per_weight
        out = reduced(total, greatest, weights_ptr, place, num_components, REDUCTION)
        tl.store(out_ptr + row, out, mask=row_exists)
    if KEEP:
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            tl.store(largest_ptr + row, largest, mask=row_exists)
        if REDUCTION == "maxmean":
            spread = reduced(total, greatest, weights_ptr, place, num_components, "spread")
            tl.store(spread_ptr + row, spread, mask=row_exists)


@triton.jit
def iqe_backward_kernel(
    grad_out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    weights_ptr,  # (num_weights,): None unless maxmean
    grad_x_ptr,  # (num_rows, C * K)
    grad_y_ptr,  # (num_rows, C * K)
    num_rows,
    rows_per_weight,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :, None]
    k = tl.arange(0, BLOCK_K)[None, None, :]
    exists_component = (row < num_rows) & (component < num_components)
    exists = exists_component & (k < K)

    # weight = grad_out * d reduction / d length
    place = tl.minimum(row, num_rows - 1) // rows_per_weight
    every, on_top = weights_of(weights_ptr, place, num_components, grad_out_ptr.dtype.element_ty, REDUCTION)
    if REDUCTION == "none":
        weight = tl.load(grad_out_ptr + row * num_components + component, mask=exists_component, other=0)
    else:
        weight = tl.load(grad_out_ptr + row, mask=row < num_rows, other=0)
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            largest = tl.load(largest_ptr + row, mask=row < num_rows, other=0)
            weight = weighted(weight, every + tl.where(component == largest, on_top, 0.0))
        else:
            weight = weighted(weight, every)

    # grad_x = -weight at left ends, grad_y = weight at right ends
    ends = ends_ptr + (row * num_components + component) * NUM_BYTES
    left = (tl.load(ends + k // 8, mask=exists, other=0).to(tl.int32) >> (k % 8)) & 1
    right = (tl.load(ends + (K + k) // 8, mask=exists, other=0).to(tl.int32) >> ((K + k) % 8)) & 1
    # Every x and no y marks a component with NaN.
    num_left = tl.sum(left, axis=2, keep_dims=True)
    num_right = tl.sum(right, axis=2, keep_dims=True)
    has_nan = (num_left == K) & (num_right == 0)
    weight = tl.where(has_nan, float("nan"), weight)
    here = (row * num_components + component) * K + k
    tl.store(grad_x_ptr + here, tl.where((left != 0) | has_nan, -weight, 0.0), mask=exists)
    tl.store(grad_y_ptr + here, tl.where((right != 0) | has_nan, weight, 0.0), mask=exists)


def _constants(num_components: int, dim_per_component: int, reduction: str) -> dict:
    """Returns the constants shared by both kernels. A program takes about 1024 numbers, 8 per thread."""
    block_k = triton.next_power_of_2(dim_per_component)
    block_c = tile_for(num_components, max(1024 // block_k, 1))
    return {
        "K": dim_per_component,
        "REDUCTION": reduction,
        "ROWS": max(1024 // (block_k * block_c), 1),
        "BLOCK_C": block_c,
        "BLOCK_K": block_k,
    }


def iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    num_rows = rows.numel()
    out, ends, largest, spread = definition.iqe_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    if num_rows * num_components == 0:
        return out, ends, largest, spread
    weights, rows_per_weight = weights_and_run(max_weight, weight_link, num_rows)
    constants = _constants(num_components, dim_per_component, reduction)
    with torch.cuda.device_of(x):
        iqe_forward_kernel[(triton.cdiv(num_rows, constants["ROWS"]),)](
            x,
            y,
            weights,
            out,
            ends,
            largest,
            spread,
            num_rows,
            rows_per_weight,
            num_components,
            HIGHEST=torch.finfo(x.dtype).max,
            KEEP=keep,
            **constants,
        )
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor,
    ends: Tensor,
    largest: Tensor | None,
    spread: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = ends.shape[:-2], ends.shape[-2]
    num_rows, size = rows.numel(), num_components * dim_per_component
    grad_x, grad_y, grad_max_weight = definition.iqe_backward_outputs(
        grad_out, ends, largest, spread, max_weight, dim_per_component, reduction, weight_link, need_weight
    )
    if num_rows * size == 0:
        return grad_x, grad_y, grad_max_weight.zero_() if need_weight else None
    weights, rows_per_weight = weights_and_run(max_weight, weight_link, num_rows)
    constants = _constants(num_components, dim_per_component, reduction)
    blocks = triton.cdiv(num_rows, constants["ROWS"]), triton.cdiv(num_components, constants["BLOCK_C"])
    with torch.cuda.device_of(grad_out):
        iqe_backward_kernel[blocks](
            grad_out,
            ends,
            largest,
            weights,
            grad_x,
            grad_y,
            num_rows,
            rows_per_weight,
            num_components,
            **constants,
        )
    if need_weight:
        grad_max_weight = definition.weight_gradient(grad_out, spread, max_weight, weight_link)
    return grad_x, grad_y, grad_max_weight


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for dim_per_component, num_components in ((1, 7), (5, 3), (16, 32), (1024, 1)):
        for reduction in ("maxmean", "none"):
            arguments = _constants(num_components, dim_per_component, reduction)
            arguments |= {"ends_ptr": torch.uint8, "largest_ptr": torch.int32}
            arguments["weights_ptr"] = dtype if reduction == "maxmean" else None
            yield iqe_backward_kernel, arguments
            yield iqe_forward_kernel, arguments | {"HIGHEST": torch.finfo(dtype).max, "KEEP": reduction == "maxmean"}

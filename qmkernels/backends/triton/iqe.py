"""IQE in Triton: the functions of backends/reference/iqe.py, and in the same order.

Precision: all arithmetic in the input's dtype (float32 or float64), sums over components and over the other side of a
pairwise matrix included; no atomics, so the same input gives the same bits.

Cost, for N and M points, D = C * K values a point:

- forward reads x and y once and writes one number a row, and with ``keep`` D / 4 bytes a row. It compares every two
  intervals of a component (about 6 K operations an element, with ends 12 K) and so needs no sort.
- backward reads D / 4 bytes a row and writes both gradients once.
- pairwise forward sorts every x once, then takes 4 operations an element of N * M * D: begin, furthest, difference,
  sum. Sorted x, its int32 positions and a transposed y, of D values a point each, are the only workspace.
- pairwise backward runs one scan for grad_x and, mirrored, one for grad_y: twice 4 operations an element and a sum
  over the other side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _finite_or_nan(value, highest):
    """An infinite coordinate counts as the largest finite number, so that no difference is infinity - infinity."""
    value = tl.where(value > highest, highest, value)
    return tl.where(value < -highest, -highest, value)


@triton.jit
def _weights(
    max_weight_ptr,  # (): None unless maxmean
    num_components,
    dtype: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """The derivative of the reduction by a length: for every component, and on top for the one of greatest length."""
    zero = tl.zeros((), dtype)
    one = zero + 1
    share = one / (zero + num_components)
    every = one
    largest = zero
    if REDUCTION == "mean":
        every = share
    if REDUCTION == "max":
        every = zero
        largest = one
    if REDUCTION == "spread":
        every = -share
        largest = one
    if REDUCTION == "maxmean":
        largest = tl.load(max_weight_ptr)
        every = (one - largest) * share
    return every, largest


@triton.jit
def _reduced(total, greatest, max_weight_ptr, num_components, REDUCTION: tl.constexpr):
    """The distance from the sum and the maximum of the lengths. A NaN length is in the sum, so it decides."""
    mean = total / (tl.zeros((), total.dtype) + num_components)
    greatest = tl.where(total == total, greatest, total)
    out = total
    if REDUCTION == "mean":
        out = mean
    if REDUCTION == "max":
        out = greatest
    if REDUCTION == "spread":
        out = greatest - mean
    if REDUCTION == "maxmean":
        out = mean + tl.load(max_weight_ptr) * (greatest - mean)
    return out


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
        # Whole bytes of left ends, then whole bytes of right ends.
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
    max_weight_ptr,  # (): None unless maxmean
    out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8)), with KEEP
    largest_ptr,  # int32 (num_rows), with KEEP and a reduction by the maximum
    spread_ptr,  # (num_rows), with KEEP and maxmean
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,  # rows a program
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
        # x = y = 0 beyond K: an empty interval, which adds nothing.
        mask = exists[:, :, None] & (k < K)
        x = _finite_or_nan(tl.load(x_ptr + here, mask=mask, other=0), highest)
        y = _finite_or_nan(tl.load(y_ptr + here, mask=mask, other=0), highest)

        # furthest_k = max of y_j, j before k: x_j < x_k, or x_j = x_k and j < k
        # nearest_k = min of x_j, j beyond k: y_j > y_k, or y_j = y_k and j < k: the mirror image
        furthest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) - highest
        nearest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) + highest
        for j in range(K):
            x_j = _finite_or_nan(tl.load(x_ptr + start + j, mask=exists, other=0), highest)[:, :, None]
            y_j = _finite_or_nan(tl.load(y_ptr + start + j, mask=exists, other=0), highest)[:, :, None]
            before = (x_j < x) | ((x_j == x) & (j < k))
            furthest = tl.where(before & (y_j > furthest), y_j, furthest)
            if KEEP:
                beyond = (y_j > y) | ((y_j == y) & (j < k))
                nearest = tl.where(beyond & (x_j < nearest), x_j, nearest)

        # begin_k = max(x_k, furthest_k),  length = sum_k relu(y_k - begin_k)
        begin = tl.where(furthest > x, furthest, x)
        # Written so that an unordered comparison keeps the NaN.
        length = tl.sum(tl.where(y <= begin, tl.zeros_like(y), y - begin), axis=2)
        if KEEP:
            left = (y > begin) & (x >= furthest)
            right = (x < y) & (x < nearest) & (y <= nearest)
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
        out = _reduced(total, greatest, max_weight_ptr, num_components, REDUCTION)
        tl.store(out_ptr + row, out, mask=row_exists)
    if KEEP:
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            tl.store(largest_ptr + row, largest, mask=row_exists)
        if REDUCTION == "maxmean":
            spread = _reduced(total, greatest, max_weight_ptr, num_components, "spread")
            tl.store(spread_ptr + row, spread, mask=row_exists)


@triton.jit
def iqe_backward_kernel(
    grad_out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    max_weight_ptr,  # (): None unless maxmean
    grad_x_ptr,  # (num_rows, C * K)
    grad_y_ptr,  # (num_rows, C * K)
    num_rows,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    ROWS: tl.constexpr,  # rows a program
    BLOCK_D: tl.constexpr,  # coordinates a program
):
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    coordinate = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    component = coordinate // K
    k = coordinate % K
    exists = (row < num_rows) & (component < num_components)

    # weight = grad_out * d reduction / d length
    every, on_top = _weights(max_weight_ptr, num_components, grad_out_ptr.dtype.element_ty, REDUCTION)
    if REDUCTION == "none":
        weight = tl.load(grad_out_ptr + row * num_components + component, mask=exists, other=0)
    else:
        weight = tl.load(grad_out_ptr + row, mask=row < num_rows, other=0)
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            largest = tl.load(largest_ptr + row, mask=row < num_rows, other=0)
            weight = weight * (every + tl.where(component == largest, on_top, 0.0))
        else:
            weight = weight * every

    # grad_x = -weight at left ends, grad_y = weight at right ends
    ends = ends_ptr + (row * num_components + component) * NUM_BYTES
    left = (tl.load(ends + k // 8, mask=exists, other=0).to(tl.int32) >> (k % 8)) & 1
    right = (tl.load(ends + (K + k) // 8, mask=exists, other=0).to(tl.int32) >> ((K + k) % 8)) & 1
    here = row * num_components * K + coordinate
    # A product, as in the reference: a NaN in grad_out reaches every coordinate.
    tl.store(grad_x_ptr + here, -weight * left.to(weight.dtype), mask=exists)
    tl.store(grad_y_ptr + here, weight * right.to(weight.dtype), mask=exists)


@triton.jit
def iqe_pairwise_forward_kernel(
    sorted_x_ptr,  # (batch, num_x, C, K), ascending in K, finite or NaN
    position_ptr,  # int32 (batch, num_x, C, K): where each sorted x stood
    y_by_point_ptr,  # (batch, C, K, padded_y), finite or NaN
    max_weight_ptr,  # (): None unless maxmean
    out_ptr,  # (batch, num_x, num_y), for reduction "none" (batch, num_x, num_y, C)
    largest_ptr,  # int32 (batch, num_x, num_y), with KEEP
    num_x,
    num_y,
    padded_y,  # num_y rounded up to a multiple of BLOCK_Y: y is read without a mask
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    KEEP: tl.constexpr,
    WIDE: tl.constexpr,  # whether K * padded_y passes 32 bits
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    dtype: tl.constexpr = sorted_x_ptr.dtype.element_ty
    blocks_x = tl.cdiv(num_x, BLOCK_X)
    blocks_y = tl.cdiv(num_y, BLOCK_Y)
    program = tl.program_id(0)
    sample = (program // (blocks_x * blocks_y)).to(tl.int64)
    i = program // blocks_y % blocks_x * BLOCK_X + tl.arange(0, BLOCK_X)
    j = program % blocks_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    i_exists = i < num_x
    exists = i_exists[:, None] & (j < num_y)[None, :]
    x_row = (sample * num_x + i) * num_components * K
    first_line = y_by_point_ptr + sample * num_components * K * padded_y

    total = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
    greatest = tl.full((BLOCK_X, BLOCK_Y), -1, dtype)
    largest = tl.zeros((BLOCK_X, BLOCK_Y), tl.int32)
    for component in range(num_components):
        furthest = tl.full((BLOCK_X, BLOCK_Y), -HIGHEST, dtype)
        length = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
        for k in range(K):
            x = tl.load(sorted_x_ptr + x_row + component * K + k, mask=i_exists, other=0)
            position = tl.load(position_ptr + x_row + component * K + k, mask=i_exists, other=0)
            line = (position.to(tl.int64) if WIDE else position) * padded_y
            y = tl.load(first_line + (line[:, None] + j[None, :]))
            # begin_k = max(x_k, furthest),  furthest = max(begin_k, y_k),  length += furthest - begin_k
            begin = tl.maximum(furthest, x[:, None], propagate_nan=_NAN)
            furthest = tl.maximum(begin, y, propagate_nan=_NAN)
            length += furthest - begin
        first_line += K * padded_y.to(tl.int64)

        if REDUCTION == "none":
            pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
            tl.store(out_ptr + pair * num_components + component, length, mask=exists)
        total += length
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            is_greater = length > greatest
            largest = tl.where(is_greater, component, largest)
            greatest = tl.where(is_greater, length, greatest)

    # Only now, so that the loop does not hold these registers.
    pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
    if REDUCTION != "none":
        out = _reduced(total, greatest, max_weight_ptr, num_components, REDUCTION)
        tl.store(out_ptr + pair, out, mask=exists)
    if KEEP:
        tl.store(largest_ptr + pair, largest, mask=exists)


@triton.jit
def iqe_pairwise_backward_kernel(
    grad_out_ptr,  # (batch, num_x, num_y), for reduction "none" (batch, num_x, num_y, C); strides below
    sorted_x_ptr,  # (batch, num_x, C, K), ascending in K, finite or NaN
    position_ptr,  # int32 (batch, num_x, C, K): where each sorted x stood
    y_by_point_ptr,  # (batch, C, K, padded_y), finite or NaN
    largest_ptr,  # int32 (batch, num_x, num_y), for a reduction by the maximum; strides below
    max_weight_ptr,  # (): None unless maxmean
    grad_ptr,  # (batch, num_x, C, K)
    num_x,
    num_y,
    padded_y,  # num_y rounded up to a multiple of BLOCK_Y: y is read without a mask
    num_components,
    stride_x,  # pairs from one x to the next, in grad_out and largest: they may be transposed
    stride_y,  # pairs from one y to the next
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    SIGN: tl.constexpr,  # -1: the gradient by x; +1: by y, with the mirrored problem in the places of x and y
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    WIDE: tl.constexpr,  # whether K * padded_y passes 32 bits
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    dtype: tl.constexpr = sorted_x_ptr.dtype.element_ty
    blocks_x = tl.cdiv(num_x, BLOCK_X)
    program = tl.program_id(0)
    sample = (program // (blocks_x * num_components)).to(tl.int64)
    component = program // blocks_x % num_components
    i = program % blocks_x * BLOCK_X + tl.arange(0, BLOCK_X)
    i_exists = i < num_x
    x_row = ((sample * num_x + i) * num_components + component) * K
    first_line = y_by_point_ptr + (sample * num_components + component) * K * padded_y
    every, on_top = _weights(max_weight_ptr, num_components, dtype, REDUCTION)

    order = tl.arange(0, BLOCK_K)[None, :]
    grad = tl.zeros((BLOCK_X, BLOCK_K), dtype)  # in the order of sorted_x
    for first_y in range(0, num_y, BLOCK_Y):
        j = first_y + tl.arange(0, BLOCK_Y)
        exists = i_exists[:, None] & (j < num_y)[None, :]
        pair = sample * num_x * num_y + i.to(tl.int64)[:, None] * stride_x + j.to(tl.int64)[None, :] * stride_y
        if REDUCTION == "none":
            weight = tl.load(grad_out_ptr + pair * num_components + component, mask=exists, other=0)
        else:
            weight = tl.load(grad_out_ptr + pair, mask=exists, other=0)
            if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
                largest = tl.load(largest_ptr + pair, mask=exists, other=0)
                weight = weight * (every + tl.where(component == largest, on_top, 0.0))
            else:
                weight = weight * every

        furthest = tl.full((BLOCK_X, BLOCK_Y), -HIGHEST, dtype)
        for k in range(K):
            x = tl.load(sorted_x_ptr + x_row + k, mask=i_exists, other=0)[:, None]
            position = tl.load(position_ptr + x_row + k, mask=i_exists, other=0)
            line = (position.to(tl.int64) if WIDE else position) * padded_y
            y = tl.load(first_line + (line[:, None] + j[None, :]))
            # x_k starts a piece: x_k >= furthest, y_k > x_k;  grad_k += sum_j weight_j
            starts = (x >= furthest) & (y > x)
            furthest = tl.maximum(furthest, y)
            ended = tl.sum(tl.where(starts, weight, 0.0), axis=1, keep_dims=True)
            grad += tl.where(order == k, ended, 0.0)

    mask = i_exists[:, None] & (order < K)
    position = tl.load(position_ptr + x_row[:, None] + order, mask=mask, other=0)
    tl.store(grad_ptr + x_row[:, None] + position, grad * SIGN, mask=mask)


def _needs_largest(reduction: str) -> bool:
    return reduction in ("max", "maxmean", "spread")


def _highest(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).max


def _finite(tensor: Tensor) -> Tensor:
    highest = _highest(tensor)
    return tensor.clamp(-highest, highest)


def _tile(size: int, at_most: int) -> int:
    """The power of two that holds ``size``, but no more than ``at_most``."""
    return min(triton.next_power_of_2(max(size, 1)), at_most)


def forward_tile(num_components: int, dim_per_component: int) -> tuple[int, int, int]:
    """Rows, components and values a program of the forward kernel: about 1024 numbers, 8 a thread."""
    block_k = triton.next_power_of_2(dim_per_component)
    block_c = _tile(num_components, max(1024 // block_k, 1))
    return max(1024 // (block_k * block_c), 1), block_c, block_k


def pairwise_forward_tile(num_x: int, num_y: int, item_size: int) -> tuple[int, int]:
    """Points of x and of y a program: 64 bytes of each number of a pair a thread, more would spill."""
    return _tile(num_x, 64 // item_size), max(_tile(num_y, 128), 16)


def pairwise_backward_tile(num_x: int, num_y: int, dim_per_component: int, item_size: int) -> tuple[int, int]:
    """Points of x a program and of y at a time. 128 y are one warp's 32 times 4: their sum needs no shared memory."""
    block_k = triton.next_power_of_2(dim_per_component)
    return _tile(num_x, max(min(32 // item_size, 1024 // block_k), 1)), max(_tile(num_y, 128), 16)


def _is_wide(y_by_point: Tensor, dim_per_component: int) -> bool:
    return dim_per_component * y_by_point.shape[-1] >= 2**31


def iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    num_rows = rows.numel()
    out = x.new_empty((*rows, num_components) if reduction == "none" else rows)
    num_bytes = (2 * dim_per_component + 7) // 8
    ends = x.new_empty((*rows, num_components, num_bytes) if keep else 0, dtype=torch.uint8)
    largest = x.new_empty(rows if keep and _needs_largest(reduction) else 0, dtype=torch.int32)
    spread = x.new_empty(rows if keep and reduction == "maxmean" else 0)
    if num_rows * num_components == 0:
        return out, ends, largest, spread
    block_rows, block_c, block_k = forward_tile(num_components, dim_per_component)
    with torch.cuda.device_of(x):
        iqe_forward_kernel[(triton.cdiv(num_rows, block_rows),)](
            x,
            y,
            max_weight if reduction == "maxmean" else None,
            out,
            ends,
            largest,
            spread,
            num_rows,
            num_components,
            HIGHEST=_highest(x),
            K=dim_per_component,
            REDUCTION=reduction,
            KEEP=keep,
            ROWS=block_rows,
            BLOCK_C=block_c,
            BLOCK_K=block_k,
        )
    return out, ends, largest, spread


def iqe_backward(
    grad_out: Tensor, ends: Tensor, largest: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str
) -> tuple[Tensor, Tensor]:
    rows, num_components = ends.shape[:-2], ends.shape[-2]
    num_rows, size = rows.numel(), num_components * dim_per_component
    grad_x, grad_y = grad_out.new_empty((*rows, size)), grad_out.new_empty((*rows, size))
    if num_rows * size == 0:
        return grad_x, grad_y
    block_d = _tile(size, 1024)
    block_rows = 1024 // block_d
    with torch.cuda.device_of(grad_out):
        iqe_backward_kernel[(triton.cdiv(num_rows, block_rows), triton.cdiv(size, block_d))](
            grad_out,
            ends,
            largest,
            max_weight if reduction == "maxmean" else None,
            grad_x,
            grad_y,
            num_rows,
            num_components,
            K=dim_per_component,
            REDUCTION=reduction,
            ROWS=block_rows,
            BLOCK_D=block_d,
        )
    return grad_x, grad_y


def _sorted_points(points: Tensor, num_components: int) -> tuple[Tensor, Tensor]:
    """Points (B, N, D), finite, to their components' values in ascending order and int32 positions: (B, N, C, K)."""
    values, positions = points.unflatten(-1, (num_components, -1)).sort(dim=-1, stable=True)
    return values.contiguous(), positions.to(torch.int32).contiguous()


def _by_point(points: Tensor, block: int) -> Tensor:
    """Points (B, M, D) to (B, D, M), M padded to a multiple of ``block``; what is in the padding is never used."""
    batch, num_points, size = points.shape
    result = points.new_empty(batch, size, triton.cdiv(num_points, block) * block)
    result[..., :num_points] = points.mT
    return result


def iqe_pairwise_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, dim_per_component: int, reduction: str, keep: bool
) -> tuple[Tensor, Tensor]:
    num_components = x.shape[-1] // dim_per_component
    pairs = batch, num_x, num_y = x.shape[0], x.shape[1], y.shape[1]
    out = x.new_empty(*pairs, num_components) if reduction == "none" else x.new_empty(pairs)
    keep = keep and _needs_largest(reduction)
    largest = x.new_empty(pairs if keep else 0, dtype=torch.int32)
    if out.numel() == 0:
        return out, largest
    block_x, block_y = pairwise_forward_tile(num_x, num_y, x.element_size())
    sorted_x, position = _sorted_points(_finite(x), num_components)
    y_by_point = _by_point(_finite(y), block_y)
    with torch.cuda.device_of(x):
        iqe_pairwise_forward_kernel[(batch * triton.cdiv(num_x, block_x) * triton.cdiv(num_y, block_y),)](
            sorted_x,
            position,
            y_by_point,
            max_weight if reduction == "maxmean" else None,
            out,
            largest,
            num_x,
            num_y,
            y_by_point.shape[-1],
            num_components,
            HIGHEST=_highest(x),
            K=dim_per_component,
            REDUCTION=reduction,
            KEEP=keep,
            WIDE=_is_wide(y_by_point, dim_per_component),
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
        )
    return out, largest


def _pairwise_gradient(
    grad_out: Tensor,  # pairs along dimensions 1 and 2 of any strides, taken from the two next arguments
    strides: tuple[int, int],
    x: Tensor,
    y: Tensor,
    largest: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    sign: int,
) -> Tensor:
    """The gradient by x (sign -1) or, called with the mirrored points -y and -x, by y (sign 1)."""
    batch, num_x, num_y, size = x.shape[0], x.shape[1], y.shape[1], x.shape[2]
    if batch * num_x * num_y * size == 0:
        return torch.zeros_like(x)
    num_components = size // dim_per_component
    block_x, block_y = pairwise_backward_tile(num_x, num_y, dim_per_component, x.element_size())
    grad = torch.empty_like(x)
    sorted_x, position = _sorted_points(x, num_components)
    y_by_point = _by_point(y, block_y)
    with torch.cuda.device_of(x):
        iqe_pairwise_backward_kernel[(batch * num_components * triton.cdiv(num_x, block_x),)](
            grad_out,
            sorted_x,
            position,
            y_by_point,
            largest,
            max_weight if reduction == "maxmean" else None,
            grad,
            num_x,
            num_y,
            y_by_point.shape[-1],
            num_components,
            *strides,
            HIGHEST=_highest(x),
            SIGN=sign,
            K=dim_per_component,
            REDUCTION=reduction,
            WIDE=_is_wide(y_by_point, dim_per_component),
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
            BLOCK_K=triton.next_power_of_2(dim_per_component),
        )
    return grad


def iqe_pairwise_backward(
    grad_out: Tensor,
    x: Tensor,
    y: Tensor,
    largest: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    need_weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    finite_x, finite_y, num_y = _finite(x), _finite(y), y.shape[1]
    rest = largest, max_weight, dim_per_component, reduction
    grad_x = _pairwise_gradient(grad_out, (num_y, 1), finite_x, finite_y, *rest, sign=-1)
    grad_y = _pairwise_gradient(grad_out, (1, num_y), -finite_y, -finite_x, *rest, sign=1)
    grad_max_weight = x.new_empty(0)
    if need_weight_gradient:
        spread, _ = iqe_pairwise_forward(x, y, None, dim_per_component, "spread", False)
        grad_max_weight = (grad_out * spread).sum()
    return grad_x, grad_y, grad_max_weight

"""IQE's components in rows, shared by the kernels of iqe.py, row_loss.py and two_distances.py: from intervals to
lengths and ends, and from ends to gradients. Tiles are (ROWS, BLOCK_C, BLOCK_K): rows, components, intervals.

The intervals of a short component are all compared with each other. Those of a long one are sorted by x, which leaves
two running maxima to find; another sort brings the ends back to their places.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .iqe_components import finite_or_nan, weighted
from .sorting import greatest_before, in_order
from .tiles import tile_for

# The K from which components are sorted. It takes 0.6 of the instructions of all pairs at 32 and 0.8 at 16, by the
# machine code for sm_90 with shuffles counted fourfold.
SORTED_FROM = tl.constexpr(32)


@triton.jit
def coordinates_of(
    ptr,
    start,  # (ROWS, BLOCK_C): where components begin
    exists,  # (ROWS, BLOCK_C)
    k,  # (ROWS or 1, BLOCK_C or 1, BLOCK_K): the coordinates' places in their component
    highest,  # largest finite number of the dtype that is computed
    K: tl.constexpr,
):
    """Loads whole components. Where k is not below K, coordinates are 0: an interval between two of them is empty."""
    mask = exists[:, :, None] & (k < K)
    return finite_or_nan(tl.load(ptr + (start[:, :, None] + k), mask=mask, other=0).to(highest.dtype), highest)


@triton.jit
def coordinate_of(ptr, start, exists, highest):
    """Loads one coordinate of each component, (ROWS, BLOCK_C, 1)."""
    return finite_or_nan(tl.load(ptr + start, mask=exists, other=0).to(highest.dtype), highest)[:, :, None]


@triton.jit
def compared(
    x,  # (ROWS, BLOCK_C, BLOCK_K): the intervals' left coordinates, y the right ones
    y,
    x_j,  # (ROWS, BLOCK_C, 1): interval j of each component
    y_j,
    j,
    furthest,  # (ROWS, BLOCK_C, BLOCK_K): the results for the intervals before j
    nearest,
    BLOCK_K: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Compares every interval with interval j, and returns, of those compared so far,

    furthest_k = max y_j over j before k: x_j < x_k, or x_j = x_k and j < k
    nearest_k = min x_j over j beyond k, the mirror image: y_j > y_k, or y_j = y_k and j < k; needed for ends.
    """
    k = tl.arange(0, BLOCK_K)[None, None, :]
    before = (x_j < x) | ((x_j == x) & (j < k))
    furthest = tl.where(before & (y_j > furthest), y_j, furthest)
    if KEEP:
        beyond = (y_j > y) | ((y_j == y) & (j < k))
        nearest = tl.where(beyond & (x_j < nearest), x_j, nearest)
    return furthest, nearest


@triton.jit
def places_by_x(
    x_ptr,
    start,  # (ROWS, BLOCK_C): where components begin
    exists,  # (ROWS, BLOCK_C)
    highest,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Returns the places of each component's intervals, (ROWS, BLOCK_C, BLOCK_K), in ascending order of x and place."""
    k = tl.arange(0, BLOCK_K)[None, None, :]
    x = coordinates_of(x_ptr, start, exists, k, highest, K)
    # NaN, which cannot be compared, comes after all numbers. The empty intervals beyond K may come anywhere.
    return in_order(tl.where(x == x, x, float("inf")), tl.broadcast_to(k, x.shape))


@triton.jit
def lengths_of(
    x,  # (ROWS, BLOCK_C, BLOCK_K)
    y,
    place,  # where each interval stood, if they are sorted, else None
    furthest,  # of `compared` or `lengths_in_order`
    nearest,
    ends_ptr,  # uint8 (ROWS, BLOCK_C): the components' first bytes, with KEEP
    exists,  # (ROWS, BLOCK_C)
    K: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Returns the components' lengths, (ROWS, BLOCK_C), and with KEEP stores their ends."""
    # begin_k = max(x_k, furthest_k),  length = sum_k relu(y_k - begin_k)
    begin = tl.where(furthest > x, furthest, x)
    # Written so that an unordered comparison keeps NaN.
    length = tl.sum(tl.where(y <= begin, tl.zeros_like(y), y - begin), axis=2)
    if KEEP:
        left = (y > begin) & (x >= furthest)
        right = (x < y) & (x < nearest) & (y <= nearest)
        if place is not None:
            # Back to their own places.
            marked = in_order(place * 4 + left.to(tl.int32) * 2 + right.to(tl.int32), None)
            left = (marked & 2) != 0
            right = (marked & 1) != 0
        # A component with NaN: mark every x and no y.
        has_nan = (length != length)[:, :, None]
        left = (left | has_nan) & (tl.arange(0, BLOCK_K)[None, None, :] < K)
        right = right & (length == length)[:, :, None]
        _store_ends(ends_ptr[:, :, None], left, right, exists[:, :, None], ROWS, BLOCK_C, BLOCK_K, K)
    return length


@triton.jit
def lengths_in_order(
    x_ptr,
    of_x,  # (ROWS, BLOCK_C): where components begin
    y_ptr,
    of_y,
    place,  # of `places_by_x`
    ends_ptr,  # uint8 (ROWS, BLOCK_C): the components' first bytes, with KEEP
    exists,  # (ROWS, BLOCK_C)
    highest,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Does what `compared` and `lengths_of` do, with the intervals sorted, where

    furthest_k = max y_j over j before k
    nearest_k = min x_j over those j after k that reach beyond all before them; the lowest number if k itself does not.

    Of right ends that tie, it marks the one whose interval comes first; `compared` the one with the lowest place.
    """
    x = coordinates_of(x_ptr, of_x, exists, place, highest, K)
    y = coordinates_of(y_ptr, of_y, exists, place, highest, K)
    furthest = greatest_before(y, -highest, False)
    nearest = x
    if KEEP:
        reaches = y > furthest
        nearest = -greatest_before(tl.where(reaches, -x, -highest), -highest, True)
        nearest = tl.where(reaches, nearest, -highest)
    return lengths_of(x, y, place, furthest, nearest, ends_ptr, exists, K, KEEP, ROWS, BLOCK_C, BLOCK_K)


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
def longest(
    length,  # (ROWS, BLOCK_C)
    exists,  # (ROWS, BLOCK_C)
    first_component,
    greatest,  # (ROWS): the greatest length so far, and its component
    largest,
):
    """Returns the greatest length and the first component that has it, now that these are compared too."""
    ranked = tl.where(length == length, length, float("inf"))
    ranked = tl.where(exists, ranked, -1.0)
    block_greatest, block_largest = tl.max(ranked, axis=1, return_indices=True)
    largest = tl.where(block_greatest > greatest, first_component + block_largest, largest)
    return tl.where(block_greatest > greatest, block_greatest, greatest), largest


@triton.jit
def gradient_by_length(
    grad_out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    row,  # int64 (ROWS, 1, 1)
    component,  # (1, BLOCK_C, 1)
    row_exists,  # (ROWS, 1, 1)
    exists,  # (ROWS, BLOCK_C, 1)
    num_components,
    every,  # of `weights_of`
    on_top,
    REDUCTION: tl.constexpr,
):
    """Returns the derivative by the components' lengths, grad_out * d reduction / d length."""
    if REDUCTION == "none":
        weight = tl.load(grad_out_ptr + row * num_components + component, mask=exists, other=0)
    else:
        weight = tl.load(grad_out_ptr + row, mask=row_exists, other=0)
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            largest = tl.load(largest_ptr + row, mask=row_exists, other=0)
            weight = weighted(weight, every + tl.where(component == largest, on_top, 0.0))
        else:
            weight = weighted(weight, every)
    return weight


@triton.jit
def end_gradients(
    ends_ptr,  # uint8 (ROWS, BLOCK_C, 1): the components' first bytes
    by_length,  # the derivative by the components' lengths, broadcast to (ROWS, BLOCK_C, 1)
    exists,  # (ROWS, BLOCK_C, 1)
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Returns the gradients by x, minus the derivative at left ends, and by y, the derivative at right ends."""
    k = tl.arange(0, BLOCK_K)[None, None, :]
    exists = exists & (k < K)
    left = (tl.load(ends_ptr + k // 8, mask=exists, other=0).to(tl.int32) >> (k % 8)) & 1
    right = (tl.load(ends_ptr + (K + k) // 8, mask=exists, other=0).to(tl.int32) >> ((K + k) % 8)) & 1
    # Every x and no y marks a component with NaN.
    num_left = tl.sum(left, axis=2, keep_dims=True)
    num_right = tl.sum(right, axis=2, keep_dims=True)
    has_nan = (num_left == K) & (num_right == 0)
    by_length = tl.where(has_nan, float("nan"), by_length)
    return (
        tl.where((left != 0) | has_nan, -by_length, 0.0),
        tl.where((right != 0) | has_nan, by_length, 0.0),
    )


@triton.jit
def over_components(
    x_ptr,  # (num_rows / rows_per_x, C * K)
    y_ptr,  # (num_rows / rows_per_y, C * K)
    lengths_ptr,  # (num_rows, C), for reduction "none"
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8)), with KEEP
    row,  # int64 (ROWS)
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype that is computed
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
    rows_per_x=1,  # neighbouring rows that share a row of x
    rows_per_y=1,
):
    """Returns each row's sum of lengths, its greatest length and the first component that has it, for reductions by the
    maximum; stores the ends with KEEP, and the lengths for reduction "none"."""
    dtype: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    highest = tl.full((), HIGHEST, dtype)
    total = tl.zeros((ROWS,), dtype)
    greatest = tl.full((ROWS,), -1, dtype)
    largest = tl.zeros((ROWS,), tl.int32)
    for first_component in range(0, num_components, BLOCK_C):
        component = first_component + tl.arange(0, BLOCK_C)
        exists = (row < num_rows)[:, None] & (component < num_components)[None, :]
        at = row[:, None] * num_components + component[None, :]
        of_x = ((row // rows_per_x)[:, None] * num_components + component[None, :]) * K
        of_y = ((row // rows_per_y)[:, None] * num_components + component[None, :]) * K
        ends = ends_ptr + at * NUM_BYTES if KEEP else None
        if K >= SORTED_FROM:
            place = places_by_x(x_ptr, of_x, exists, highest, K, BLOCK_K)
            length = lengths_in_order(
                x_ptr, of_x, y_ptr, of_y, place, ends, exists, highest, K, KEEP, ROWS, BLOCK_C, BLOCK_K
            )
        else:
            k = tl.arange(0, BLOCK_K)[None, None, :]
            x = coordinates_of(x_ptr, of_x, exists, k, highest, K)
            y = coordinates_of(y_ptr, of_y, exists, k, highest, K)
            furthest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) - highest
            nearest = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) + highest
            for j in range(K):
                x_j = coordinate_of(x_ptr, of_x + j, exists, highest)
                y_j = coordinate_of(y_ptr, of_y + j, exists, highest)
                furthest, nearest = compared(x, y, x_j, y_j, j, furthest, nearest, BLOCK_K, KEEP)
            length = lengths_of(x, y, None, furthest, nearest, ends, exists, K, KEEP, ROWS, BLOCK_C, BLOCK_K)
        if REDUCTION == "none":
            tl.store(lengths_ptr + at, length, mask=exists)
        else:
            total += tl.sum(length, axis=1)
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            greatest, largest = longest(length, exists, first_component, greatest, largest)
    return total, greatest, largest


def row_tile(num_components: int, dim_per_component: int) -> dict[str, int]:
    """Returns the sizes of a program's tile: about 1024 numbers, 8 per thread."""
    block_k = triton.next_power_of_2(dim_per_component)
    block_c = tile_for(num_components, max(1024 // block_k, 1))
    return {"ROWS": max(1024 // (block_k * block_c), 1), "BLOCK_C": block_c, "BLOCK_K": block_k}

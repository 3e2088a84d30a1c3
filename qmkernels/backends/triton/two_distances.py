"""Two IQE distances per row in one kernel, shared by qrl_critic.py and latent_dynamics.py: from x_0 to y_0 and from x_1
to y_1, where the pairs have tensors in common. Sums over all rows and a pair's gradients serve row_loss.py too.

Both pairs are compared in one loop, where the compiler merges what they have in common: the loads of a tensor that is
in both, and some comparisons of its coordinates. Of long components it merges the sorts by a common x. Sums over rows
are in double, in a fixed order: each program's, then those of all programs by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions.iqe import WEIGHT_LINKS
from .iqe_components import linked, reduced, weighted, weights_of
from .iqe_rows import (
    SORTED_FROM,
    compared,
    coordinate_of,
    coordinates_of,
    end_gradients,
    lengths_in_order,
    lengths_of,
    longest,
    places_by_x,
)

SUM_BLOCK = 1024


@triton.jit
def two_distances(
    x_0_ptr,  # (num_rows, C * K)
    y_0_ptr,  # (num_rows, C * K)
    row_of_y_0,  # int64 (ROWS): which row of y_0 is compared with each of `row`
    x_1_ptr,  # (num_rows, C * K)
    y_1_ptr,  # (num_rows, C * K)
    row,  # int64 (ROWS)
    max_weight_ptr,  # (): None unless maxmean
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    spread_ptr,  # (2, num_rows), for maxmean
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype that is computed
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    """Returns both distances of each row, and stores the ends, the longest components and the spreads."""
    dtype: tl.constexpr = tl.float64 if x_0_ptr.dtype.element_ty == tl.float64 else tl.float32
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    highest = tl.full((), HIGHEST, dtype)
    total_0 = tl.zeros((ROWS,), dtype)
    total_1 = tl.zeros((ROWS,), dtype)
    greatest_0 = tl.full((ROWS,), -1, dtype)
    greatest_1 = tl.full((ROWS,), -1, dtype)
    largest_0 = tl.zeros((ROWS,), tl.int32)
    largest_1 = tl.zeros((ROWS,), tl.int32)
    for first_component in range(0, num_components, BLOCK_C):
        component = first_component + tl.arange(0, BLOCK_C)
        exists = (row < num_rows)[:, None] & (component < num_components)[None, :]
        at = row[:, None] * num_components + component[None, :]
        start = at * K
        start_of_y_0 = (row_of_y_0[:, None] * num_components + component[None, :]) * K
        ends_0 = ends_ptr + at * NUM_BYTES
        ends_1 = ends_ptr + ((row + num_rows)[:, None] * num_components + component[None, :]) * NUM_BYTES
        if K >= SORTED_FROM:
            # Both sorts come before the first ends are stored, behind which the compiler could not merge them.
            place_0 = places_by_x(x_0_ptr, start, exists, highest, K, BLOCK_K)
            place_1 = places_by_x(x_1_ptr, start, exists, highest, K, BLOCK_K)
            length_0 = lengths_in_order(
                x_0_ptr, start, y_0_ptr, start_of_y_0, place_0, ends_0, exists, highest, K, True, ROWS, BLOCK_C, BLOCK_K
            )
            length_1 = lengths_in_order(
                x_1_ptr, start, y_1_ptr, start, place_1, ends_1, exists, highest, K, True, ROWS, BLOCK_C, BLOCK_K
            )
        else:
            k = tl.arange(0, BLOCK_K)[None, None, :]
            x_0 = coordinates_of(x_0_ptr, start, exists, k, highest, K)
            y_0 = coordinates_of(y_0_ptr, start_of_y_0, exists, k, highest, K)
            x_1 = coordinates_of(x_1_ptr, start, exists, k, highest, K)
            y_1 = coordinates_of(y_1_ptr, start, exists, k, highest, K)
            furthest_0 = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) - highest
            nearest_0 = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype) + highest
            furthest_1 = furthest_0
            nearest_1 = nearest_0
            for j in range(K):
                x_0_j = coordinate_of(x_0_ptr, start + j, exists, highest)
                y_0_j = coordinate_of(y_0_ptr, start_of_y_0 + j, exists, highest)
                x_1_j = coordinate_of(x_1_ptr, start + j, exists, highest)
                y_1_j = coordinate_of(y_1_ptr, start + j, exists, highest)
                furthest_0, nearest_0 = compared(x_0, y_0, x_0_j, y_0_j, j, furthest_0, nearest_0, BLOCK_K, True)
                furthest_1, nearest_1 = compared(x_1, y_1, x_1_j, y_1_j, j, furthest_1, nearest_1, BLOCK_K, True)
            length_0 = lengths_of(
                x_0, y_0, None, furthest_0, nearest_0, ends_0, exists, K, True, ROWS, BLOCK_C, BLOCK_K
            )
            length_1 = lengths_of(
                x_1, y_1, None, furthest_1, nearest_1, ends_1, exists, K, True, ROWS, BLOCK_C, BLOCK_K
            )
        total_0 += tl.sum(length_0, axis=1)
        total_1 += tl.sum(length_1, axis=1)
        if largest_ptr is not None:
            greatest_0, largest_0 = longest(length_0, exists, first_component, greatest_0, largest_0)
            greatest_1, largest_1 = longest(length_1, exists, first_component, greatest_1, largest_1)
    if largest_ptr is not None:
        store_two(largest_ptr, row, largest_0, largest_1, num_rows)
    if spread_ptr is not None:
        spread_0 = reduced(total_0, greatest_0, None, 0, num_components, "spread", LINK)
        spread_1 = reduced(total_1, greatest_1, None, 0, num_components, "spread", LINK)
        store_two(spread_ptr, row, spread_0, spread_1, num_rows)
    return (
        reduced(total_0, greatest_0, max_weight_ptr, 0, num_components, REDUCTION, LINK),
        reduced(total_1, greatest_1, max_weight_ptr, 0, num_components, REDUCTION, LINK),
    )


@triton.jit
def store_two(ptr, row, of_pair_0, of_pair_1, num_rows):
    """Stores numbers of both pairs in (2, num_rows)."""
    tl.store(ptr + row, of_pair_0, mask=row < num_rows)
    tl.store(ptr + num_rows + row, of_pair_1, mask=row < num_rows)


@triton.jit
def store_sum(sums_ptr, number, values, row, num_rows):
    """Stores the sum of a program's values in (numbers, programs)."""
    total = tl.sum(tl.where(row < num_rows, values.to(tl.float64), 0.0), axis=0)
    tl.store(sums_ptr + number * tl.num_programs(0) + tl.program_id(0), total)


@triton.jit
def mean_of(sums_ptr, number, num_programs, num_rows, BLOCK: tl.constexpr):
    """Returns the mean over all rows, from what `store_sum` stored."""
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, num_programs, BLOCK):
        program = first + tl.arange(0, BLOCK)
        total += tl.load(sums_ptr + number * num_programs + program, mask=program < num_programs, other=0)
    return tl.sum(total, axis=0) / num_rows


@triton.jit
def pair_gradients(
    PAIR: tl.constexpr,
    grad_loss_ptr,  # ()
    slopes_ptr,  # (2, num_rows)
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    max_weight_ptr,  # (): None unless maxmean
    row,  # int64 (ROWS, 1, 1)
    component,  # (1, BLOCK_C, 1)
    num_rows,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Returns a pair's gradients by x and y, (ROWS, BLOCK_C, BLOCK_K)."""
    every, on_top = weights_of(max_weight_ptr, 0, num_components, slopes_ptr.dtype.element_ty, REDUCTION, LINK)
    at = row + PAIR * num_rows
    by_distance = tl.load(grad_loss_ptr) * tl.load(slopes_ptr + at, mask=row < num_rows, other=0)
    if largest_ptr is not None:
        largest = tl.load(largest_ptr + at, mask=row < num_rows, other=0)
        by_length = weighted(by_distance, every + tl.where(component == largest, on_top, 0.0))
    else:
        by_length = weighted(by_distance, every)
    ends = ends_ptr + (at * num_components + component) * ((2 * K + 7) // 8)
    exists = (row < num_rows) & (component < num_components)
    return end_gradients(ends, by_length, exists, K, BLOCK_K)


@triton.jit
def store_coordinates(ptr, values, row, component, num_rows, num_components, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """Stores a tile, (ROWS, BLOCK_C, BLOCK_K), in (num_rows, C * K)."""
    k = tl.arange(0, BLOCK_K)[None, None, :]
    exists = (row < num_rows) & (component < num_components) & (k < K)
    tl.store(ptr + ((row * num_components + component) * K + k), values, mask=exists)


@triton.jit
def weight_gradient_kernel(
    grad_loss_ptr,  # ()
    slopes_ptr,  # (2, num_rows)
    spread_ptr,  # (2, num_rows)
    max_weight_ptr,  # ()
    grad_max_weight_ptr,  # ()
    num_distances,  # 2 * num_rows
    LINK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, num_distances, BLOCK):
        at = first + tl.arange(0, BLOCK)
        slopes = tl.load(slopes_ptr + at, mask=at < num_distances, other=0).to(tl.float64)
        total += slopes * tl.load(spread_ptr + at, mask=at < num_distances, other=0)
    _, slope = linked(tl.load(max_weight_ptr), LINK)
    tl.store(grad_max_weight_ptr, tl.load(grad_loss_ptr) * tl.sum(total, axis=0) * slope)


def store_weight_gradient(
    grad_loss: Tensor, slopes: Tensor, spread: Tensor, max_weight: Tensor, weight_link: str, grad_max_weight: Tensor
) -> None:
    """Fills ``grad_max_weight``; runs in one program."""
    weight_gradient_kernel[(1,)](
        grad_loss, slopes, spread, max_weight, grad_max_weight, slopes.numel(), LINK=weight_link, BLOCK=SUM_BLOCK
    )


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for link in WEIGHT_LINKS:
        yield weight_gradient_kernel, {"LINK": link, "BLOCK": SUM_BLOCK}

"""Nearest neighbours in Triton: the function of backends/reference/nearest.py.

A program merges one row: its k smallest so far, which are sorted, with the tile's distances in ascending order. It
finds each of these by a search, once the one before was taken. A search costs a pass over the tile's columns, and there
is one more search than the tile has distances among the k smallest: few in a long bank, except for its first tile.
For more than MOST_IN_KERNEL places torch sorts instead. Nothing waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import nearest as definition
from .tiles import tile_for

MOST_IN_KERNEL = 1024


@triton.jit
def _key(value):
    """Returns integers in the order of the values: NaN after every number, 0 equal to -0."""
    value = tl.where(value == 0, 0.0, value)
    if value.dtype == tl.float32:
        bits = value.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        key = tl.where(value == value, key, 0x7FFFFFFF)
    else:
        bits = value.to(tl.int64, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
        key = tl.where(value == value, key, 0x7FFFFFFFFFFFFFFF)
    return key


@triton.jit
def _next_in_tile(
    row_ptr,  # (num_columns): a row of distances
    last_key,  # (): where the search resumes: the distance taken last, and its column
    last_column,
    num_columns,
    BLOCK: tl.constexpr,
):
    """Returns the key and column of the smallest distance after the last; column num_columns if there is none."""
    found_key = last_key
    found_column = tl.zeros_like(last_column) + num_columns
    for first in range(0, num_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        exists = column < num_columns
        key = _key(tl.load(row_ptr + column, mask=exists, other=float("nan")))
        comes_after = exists & ((key > last_key) | ((key == last_key) & (column > last_column)))
        # NaN has the largest of all keys.
        smallest = tl.min(tl.where(comes_after, key, _key(tl.full((), float("nan"), row_ptr.dtype.element_ty))), axis=0)
        place = tl.min(tl.where(comes_after & (key == smallest), column, num_columns), axis=0)
        is_better = (place < num_columns) & ((found_column == num_columns) | (smallest < found_key))
        found_key = tl.where(is_better, smallest, found_key)
        found_column = tl.where(is_better, place, found_column)
    return found_key, found_column


@triton.jit
def nearest_merge_kernel(
    distances_ptr,  # (num_rows, num_columns)
    values_ptr,  # (num_rows, k)
    indices_ptr,  # int64 (num_rows, k), -1: an empty place
    merged_values_ptr,  # (num_rows, k)
    merged_indices_ptr,  # int64 (num_rows, k)
    num_columns,
    k,
    first,  # the index of the tile's first column
    BLOCK: tl.constexpr,  # columns at a time
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = distances_ptr + row * num_columns
    place = row * k  # the next of the k smallest so far
    end = place + k
    # A key below that of -infinity comes before every distance.
    key = _key(tl.full((), float("-inf"), row_ptr.dtype.element_ty)) - 1
    key, column = _next_in_tile(row_ptr, key, tl.zeros((), tl.int32) - 1, num_columns, BLOCK)
    for here in range(row * k, end):
        index = tl.load(indices_ptr + place)
        value = tl.load(values_ptr + place)
        # Those so far have lower indices, so they come first on a tie.
        is_left = column < num_columns
        from_tile = is_left & ((index < 0) | (_key(value) > key))
        if from_tile:
            value = tl.load(row_ptr + column)
            index = first + column.to(tl.int64)
            key, column = _next_in_tile(row_ptr, key, column, num_columns, BLOCK)
        else:
            # Empty places are at the end; the last of them also serves for the places after it.
            place = tl.minimum(place + 1, end - 1)
        tl.store(merged_values_ptr + here, tl.where(index < 0, float("nan"), value))
        tl.store(merged_indices_ptr + here, index)


def _merged_by_sorting(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    here = torch.arange(first, first + distances.shape[1], device=distances.device)
    values, place = torch.cat([values, distances], dim=1).sort(dim=1, stable=True)
    indices = torch.cat([indices, here.expand(distances.shape)], dim=1).gather(1, place)
    # A second stable sort moves the empty places behind everything, even NaN.
    is_empty, place = (indices < 0).to(torch.uint8).sort(dim=1, stable=True)
    values = values.gather(1, place).masked_fill(is_empty.bool(), torch.nan)
    return values, indices.gather(1, place)


def nearest_merge(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    (num_rows, num_columns), k = distances.shape, values.shape[1]
    if k > MOST_IN_KERNEL:
        merged_values, merged_indices = _merged_by_sorting(distances, values, indices, first)
        return merged_values[:, :k].contiguous(), merged_indices[:, :k].contiguous()
    merged_values, merged_indices = definition.nearest_merge_outputs(distances, values, indices, first)
    if merged_values.numel() > 0:
        with torch.cuda.device_of(distances):
            nearest_merge_kernel[(num_rows,)](
                distances,
                values,
                indices,
                merged_values,
                merged_indices,
                num_columns,
                k,
                first,
                BLOCK=tile_for(num_columns, 1024),
            )
    return merged_values, merged_indices


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    indices = {"indices_ptr": torch.int64, "merged_indices_ptr": torch.int64}
    yield nearest_merge_kernel, indices | {"BLOCK": 1024}
    yield nearest_merge_kernel, indices | {"BLOCK": 16, "k": 1}

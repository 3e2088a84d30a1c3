"""The terms of losses over rows, and their sums, for row_loss.py: from a row's distance and target to its slope."""

from __future__ import annotations

import triton
import triton.language as tl

from .mrn_components import power_of
from .two_distances import store_sum


@triton.jit
def _sign(value):
    """Returns 1 or -1; 0 and NaN are themselves."""
    return tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, value))


@triton.jit
def _term(
    distance,
    target,
    FORM: tl.constexpr,
    BETA: tl.constexpr,
    POWER: tl.constexpr,
    EXPECTILE: tl.constexpr,
    HUBER_DELTA: tl.constexpr,
):
    """Returns the rows' terms and their derivatives by the distance."""
    error = distance - target
    size = tl.abs(error)
    value = error * error
    slope = 2 * error
    if FORM == "smooth_l1":
        value = size - 0.5 * BETA
        slope = _sign(error)
        if BETA > 0:
            value = tl.where(size < BETA, 0.5 * error * error / BETA, value)
            slope = tl.where(size < BETA, error / BETA, slope)
    if FORM == "relative":
        ratio = distance / target - 1
        value = ratio * ratio
        slope = 2 * ratio / target
    if FORM == "upper":
        beyond = tl.where(error < 0, 0.0, error)
        value = beyond * beyond
        slope = 2 * beyond
    if FORM == "apart":
        short_of = tl.where(error > 0, 0.0, -error)
        base = tl.where(short_of > 0, short_of, 1.0)
        value = tl.where(short_of > 0, power_of(base, POWER), short_of)
        slope = tl.where(short_of > 0, -power_of(base, POWER - 1) * POWER, -short_of)
    if FORM == "expectile":
        expectile = tl.full((), EXPECTILE, distance.dtype)
        weight = tl.where(target > distance, 1 - expectile, expectile)
        if HUBER_DELTA > 0:
            value = tl.where(size <= HUBER_DELTA, 0.5 * error * error, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
            slope = tl.where(size <= HUBER_DELTA, error, HUBER_DELTA * _sign(error))
        value = weight * value
        slope = weight * slope
    return value, slope


@triton.jit
def store_row_terms(
    distance,  # (ROWS)
    row,  # int64 (ROWS)
    target_ptr,  # (num_rows) or (1)
    weight_ptr,  # (num_rows) or None
    mask_ptr,  # (num_rows) or None
    count_ptr,  # int64 (): the number of rows kept, with a mask
    slopes_ptr,  # (num_rows)
    sums_ptr,  # float64 (4, programs): weighted terms, distances, targets, distances below their target
    num_rows,
    TARGET_OF_EACH: tl.constexpr,  # whether each row has its target
    FORM: tl.constexpr,
    BETA: tl.constexpr,
    POWER: tl.constexpr,
    EXPECTILE: tl.constexpr,
    HUBER_DELTA: tl.constexpr,
):
    exists = row < num_rows
    kept = exists
    if mask_ptr is not None:
        kept = exists & (tl.load(mask_ptr + row, mask=exists, other=0) != 0)
    target = tl.load(target_ptr + (row if TARGET_OF_EACH else tl.zeros_like(row)), mask=exists, other=1)
    if FORM == "relative":
        target = tl.where(target <= 0, float("nan"), target)
    else:
        target = tl.where(target < 0, float("nan"), target)
    value, slope = _term(distance, target, FORM, BETA, POWER, EXPECTILE, HUBER_DELTA)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + row, mask=exists, other=0)
        value = value * weight
        slope = slope * weight
    count = count_of(count_ptr, num_rows).to(distance.dtype)
    tl.store(slopes_ptr + row, tl.where(kept, slope / count, 0.0), mask=exists)
    store_sum(sums_ptr, 0, tl.where(kept, value, 0.0), row, num_rows)
    store_sum(sums_ptr, 1, tl.where(kept, distance, 0.0), row, num_rows)
    store_sum(sums_ptr, 2, tl.where(kept, target, 0.0), row, num_rows)
    store_sum(sums_ptr, 3, tl.where(kept & (distance < target), 1.0, 0.0), row, num_rows)


@triton.jit
def count_of(count_ptr, num_rows):
    """Returns the number of rows kept, at least 1, in double."""
    count = tl.zeros((), tl.float64) + num_rows
    if count_ptr is not None:
        count = tl.maximum(tl.load(count_ptr), 1).to(tl.float64)
    return count

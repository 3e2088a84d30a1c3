"""Sorting along the last axis of a tile, (..., SIZE) with SIZE a power of two, and the maximum of all that come before.

Both go in steps between values 2**bit places apart, so tiles are reshaped to a hypercube with an axis per bit, as in
tl.sort. That sorts by one key, and a float64 leaves no room in it for a place. tl.associative_scan has no exclusive
form. tl.gather would hold the whole tile in every warp. Here a value comes from the same thread, by a shuffle, or
through shared memory from another warp.

Cost: a sort takes L * (L + 1) / 2 steps for L = log2(SIZE), a maximum L. A step takes about 8 operations per element
with places, 5 without, and 4 in a maximum.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def _log2(size):
    return size.bit_length() - 1


@triton.jit
def _hypercube(values):
    return tl.reshape(values, [2] * _log2(values.numel))


@triton.jit
def _across(values, BIT: tl.constexpr):
    """Returns the values 2**BIT places away: the sum of both, less one's own. It is exact, because integers wrap
    around, and compiles to a move."""
    bits = values.to(tl.int64 if values.dtype.primitive_bitwidth == 64 else tl.int32, bitcast=True)
    of_both = tl.sum(bits, axis=len(values.shape) - 1 - BIT, keep_dims=True)
    return (of_both - bits).to(values.dtype, bitcast=True)


@triton.jit
def _is_second(values, BIT: tl.constexpr):
    """Returns whether a value is the second of two that are 2**BIT places apart."""
    NUM_AXES: tl.constexpr = len(values.shape)
    return tl.reshape(tl.arange(0, 2), [1] * (NUM_AXES - 1 - BIT) + [2] + [1] * BIT) != 0


@triton.jit
def in_order(
    key,  # (..., SIZE), not NaN
    place,  # (..., SIZE): decides between equal keys; None if all differ
):
    """Sorts every SIZE keys in ascending order, by a bitonic network; returns their places, or the keys without."""
    shape: tl.constexpr = key.shape
    SIZE: tl.constexpr = shape[len(shape) - 1]
    NUM_BITS: tl.constexpr = _log2(SIZE)
    at = _hypercube(tl.arange(0, key.numel) % SIZE)
    key = _hypercube(key)
    if place is not None:
        place = _hypercube(place)
    # A loop, not unrolled: with all steps of 1024 keys in sequence a kernel compiles for half a minute.
    for run in range(1, NUM_BITS + 1):
        # Merges two runs into one of 2**run keys. Every second one descends, so that two make a bitonic sequence.
        descends = ((at >> run) & 1) != 0
        for step in tl.static_range(NUM_BITS):
            if NUM_BITS - 1 - step < run:
                # Of values 2**bit places apart, the wrong ones change places.
                other = _across(key, NUM_BITS - 1 - step)
                moves = key > other
                if place is not None:
                    other_place = _across(place, NUM_BITS - 1 - step)
                    moves |= (key == other) & (place > other_place)
                moves = moves != (_is_second(key, NUM_BITS - 1 - step) != descends)
                key = tl.where(moves, other, key)
                if place is not None:
                    place = tl.where(moves, other_place, place)
    return tl.reshape(key if place is None else place, shape)


@triton.jit
def greatest_before(
    values,  # (..., SIZE)
    lowest,  # the result where nothing comes before
    REVERSE: tl.constexpr,  # whether "before" means at higher places
):
    """Returns, for every one of SIZE values, the maximum of those before it."""
    shape: tl.constexpr = values.shape
    # Of the 2**bit places around each value: the maximum of those before it, and of all.
    greatest = _hypercube(values)
    before = tl.zeros_like(greatest) + lowest
    for bit in tl.static_range(_log2(shape[len(shape) - 1])):
        other = _across(greatest, bit)
        before = tl.where((_is_second(greatest, bit) != REVERSE) & (other > before), other, before)
        greatest = tl.where(other > greatest, other, greatest)
    return tl.reshape(before, shape)

"""Levels of finite scalar quantisation and their constants; the formulas are in definitions/fsq.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# With more levels, the bound, a thousandth beyond the outermost level, would round to a level that does not exist.
MOST_LEVELS = 1000


class FsqConstants(NamedTuple):
    """The constants that quantise one value of a group.

    digit = round(tanh(z + shift) * half - offset), code = digit / width; ``place`` is the digit's weight in the index.
    """

    shift: float
    half: float
    offset: float
    width: int
    place: int


def constants(levels: Sequence[int]) -> list[FsqConstants]:
    result, place = [], 1
    for count in levels:
        half = (count - 1) * (1 + 1e-3) / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        result.append(FsqConstants(math.atanh(offset / half), half, offset, count // 2, place))
        place *= count
    return result


def checked_levels(op: str, levels: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(levels, (list, tuple)):
        raise TypeError(f"{op}: levels must be a list or tuple of ints, got {type(levels).__name__}.")
    for count in levels:
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{op}: levels must be ints, got {type(count).__name__} in {levels}.")
        if not 2 <= count <= MOST_LEVELS:
            raise ValueError(f"{op}: levels must be from 2 to {MOST_LEVELS}, got {list(levels)}.")
    if not levels:
        raise ValueError(f"{op}: levels must have at least one int, got none.")
    if math.prod(levels) >= 2**63:
        raise ValueError(f"{op}: the product of levels must be below 2^63 for int64 indices, got {list(levels)}.")
    return tuple(levels)


def check_size(z: Sequence[int], levels: Sequence[int]) -> None:
    """Raises ValueError unless the last size of z is that of whole groups."""
    if len(z) == 0 or z[-1] % len(levels) != 0:
        raise ValueError(
            f"fsq: the last size of z must be a multiple of the number of levels, {len(levels)}, got {tuple(z)}."
        )

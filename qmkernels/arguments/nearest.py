"""Checks of the arguments of `nearest`."""

from __future__ import annotations

from collections.abc import Sequence

from .checks import check_metric


def check(y: Sequence[int], k: int, metric: object) -> None:
    """Raises for arguments that are wrong whatever the size of the bank."""
    if len(y) != 2:
        raise ValueError(f"nearest: y, the bank, must be (M, D), got {tuple(y)}.")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"nearest: k must be an int, got {type(k).__name__}.")
    check_metric("nearest", metric)


def check_size(k: int, rows: int) -> None:
    """Raises where a bank of that many rows is empty or has fewer than k."""
    if rows == 0:
        raise ValueError("nearest: y, the bank, must have at least one row, got none.")
    if not 1 <= k <= rows:
        raise ValueError(f"nearest: k must be from 1 to the bank's {rows} rows, got {k}.")


def check_distances(sizes: Sequence[int], num_x: int, num_y: int) -> None:
    """Raises ValueError unless a metric's distances have this size."""
    if tuple(sizes) != (num_x, num_y):
        raise ValueError(
            f"nearest: metric must give ({num_x}, {num_y}) distances for {num_x} rows of x and {num_y} of y, got "
            f"{tuple(sizes)}."
        )

"""Shortest paths on the reference backend, and what every backend's function takes and returns."""

from __future__ import annotations

from torch import Tensor

from ...definitions import shortest_paths as definition


def shortest_paths_forward(lengths: Tensor, with_next: bool) -> tuple[Tensor, Tensor | None]:
    """Returns the distances (B, N, N) along shortest paths, and with ``with_next`` the nodes after the first (B, N, N),
    int64; else None.

    ``lengths`` (B, N, N), float32 or float64, contiguous, are those of single steps, infinity where there is none; the
    diagonal counts as 0. Where there is no path the distance is infinity and the next node -1. A graph with a length
    that is negative or NaN, on the diagonal too, has NaN distances and next nodes -1.
    """
    return definition.closure(lengths, with_next)

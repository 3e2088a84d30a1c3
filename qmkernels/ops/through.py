"""Distances by way of landmarks, for planning."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.broadcasting import broadcast_sizes
from ..arguments.checks import check_metric
from . import arguments, broadcasting
from .shortest_paths import shortest_paths

# Sums of a landmark's distance to another and the other's to a goal that exist at once.
_SUMS_AT_ONCE = 2**22


class Through(NamedTuple):
    """Distances by way of landmarks, and the indices of the first and the last landmark, all ``(...)``."""

    distances: Tensor
    first: Tensor
    last: Tensor


def through(
    x: Tensor,
    landmarks: Tensor,
    y: Tensor,
    *,
    metric: Callable[[Tensor, Tensor], Tensor],
    longest: float | None = None,
    between: Tensor | None = None,
) -> Through:
    r"""Computes the length of the shortest way from each x to its y by way of landmarks, and where it leads first.

    .. math:: \mathrm{through}(x, y) = \min_{k, l}\; d(x, m_k) + D^*_{kl} + d(m_l, y)

    where D* are the `shortest_paths` between the landmarks m, k = l included. A learned quasimetric has no shortcuts,
    but its long distances are its least certain: with ``longest``, no single step is longer.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16. The leading dimensions of x and y broadcast: x
            (E, 300, D) and y (E, 1, D) are 300 candidates and one goal per environment. Distances are computed before
            broadcasting: 300 E to the landmarks, and E from them.
        landmarks: ``(L, D)``, of x's dtype and device.
        y: to, the goals, ``(..., D)``, of x's dtype and device.
        metric: the distance: a head, whose ``pairwise`` is used, or a function ``metric(x, y)`` that broadcasts leading
            dimensions, such as ``functools.partial(qm.iqe, dim_per_component=8)``. Its values must be at least 0.
        longest: steps that are longer are left out: from x, between landmarks, and to y. Default: none.
        between: D*, ``(L, L)``, where it is known: computed once for many calls, or from other lengths. Default:
            ``qm.shortest_paths`` of the landmarks' distances up to ``longest``.

    Returns:
        A named tuple: ``distances`` (...), in the metric's unit and dtype, float32 for half inputs, infinity where no
        way leads; ``first`` and ``last`` (...), int64: the indices k and l, -1 where no way leads. The direct distance
        d(x, y) is not among the ways. For the landmarks from first to last, pass ``between`` and follow the ``next`` of
        ``qm.shortest_paths(..., return_next=True)``.

    Gradients flow through the steps of the shortest way to x, landmarks, y and the metric's parameters, and to
    ``between``. Of equal ways the one with the smallest k, then l is taken. Beyond the result's, memory is that of one
    sum per result and landmark, and 4 million more. A NaN distance to or from a landmark makes every result that sees
    it NaN, with indices -1.

    Raises:
        ValueError: no landmarks, sizes that do not fit or broadcast, a longest that is not positive, a metric that
            returns another shape, or a head with a discount, whose values fall with distance; and what
            `shortest_paths` raises.
        TypeError: tensors that are not float or differ in dtype, or a metric that cannot be called.
        RuntimeError: different devices.

    Source: planning with landmarks as in SoRB (Eysenbach et al. 2019, arXiv 1906.05253) and ProQ (arXiv 2506.18847).

    Example:
        >>> head = qm.nn.IQE(2, dim_per_component=2, reduction="sum")
        >>> landmarks = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
        >>> qm.through(torch.tensor([0.0, 0.0]), landmarks, torch.tensor([0.0, 4.0]), metric=head, longest=1.0)
        Through(distances=tensor(4.), first=tensor(0), last=tensor(2))
    """
    arguments.check_embeddings("through", x, y)
    arguments.check_embeddings("through", x, landmarks)
    check_metric("through", metric)
    _check(landmarks, longest, between)
    shape = broadcast_sizes("through", x.shape, y.shape)

    def steps(start: Tensor, end: Tensor) -> Tensor:
        lengths = broadcasting.every_pair(metric, start, end)
        if lengths.shape != (len(start), len(end)):
            raise ValueError(
                f"through: metric must give ({len(start)}, {len(end)}) distances for as many rows, "
                f"got {tuple(lengths.shape)}."
            )
        return lengths if longest is None else lengths.masked_fill(lengths > longest, torch.inf)

    count = len(landmarks)
    there = steps(x.reshape(-1, x.shape[-1]), landmarks).reshape(*x.shape[:-1], count)
    onwards = steps(landmarks, y.reshape(-1, y.shape[-1]))
    if between is None:
        between = shortest_paths(steps(landmarks, landmarks))
    parts = [
        (between + goals.T.unsqueeze(1)).min(dim=-1)  # (goals, L, L): from each landmark, by way of each as the last
        for goals in onwards.split(max(1, _SUMS_AT_ONCE // count**2), dim=1)
    ]
    rest, last = (torch.cat(part).reshape(*y.shape[:-1], count) for part in zip(*parts, strict=True))
    distances, first = (there + rest).min(dim=-1)
    last = last.expand(*shape, count).gather(-1, first.unsqueeze(-1)).squeeze(-1)
    exists = distances < torch.inf
    return Through(distances, first.where(exists, -1), last.where(exists, -1))


def _check(landmarks: Tensor, longest: float | None, between: Tensor | None) -> None:
    if landmarks.dim() != 2 or len(landmarks) == 0:
        raise ValueError(f"through: landmarks must be (L, D) with at least one row, got {tuple(landmarks.shape)}.")
    if longest is not None and not longest > 0:
        raise ValueError(f"through: longest must be above 0, got {longest}.")
    if between is None:
        return
    arguments.check_float("through", "between", between)
    if between.shape != (len(landmarks), len(landmarks)):
        raise ValueError(
            f"through: between must be (L, L) for the {len(landmarks)} landmarks, got {tuple(between.shape)}."
        )
    if between.device != landmarks.device:
        raise RuntimeError(f"through: between must be on {landmarks.device}, like landmarks, got {between.device}.")

"""Distances of x (..., D) to y (..., D) by kernels for matching rows and for all pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..arguments.broadcasting import broadcast_sizes, matrix_plan
from ..arguments.checks import check_pairwise_sizes
from .kernel_call import Op


class BothWays(NamedTuple):
    """Distances in both directions, of the same shape."""

    x_to_y: Array
    y_to_x: Array


Distances = Array | BothWays


class DistanceForms(NamedTuple):
    """A distance's two forms: on matching rows, (R, D) and (R, D) to (R,), and on every pair of rows, (B, N, D) and
    (B, M, D) to (B, N, M); with ``to_minus_from``, the distance from y to x.

    A parameter is (G, ...), one for each of G equal runs of rows, or of matrices.
    """

    rows: Op
    pairs: Op
    to_minus_from: bool = False

    def of_rows(self, x: Array, y: Array, parameters: Sequence[Array], settings: Any) -> Array:
        if self.to_minus_from:
            x, y = y, x
        return self.rows(x, y, *parameters, settings=settings)[0]

    def of_pairs(self, x: Array, y: Array, parameters: Sequence[Array], settings: Any) -> Array:
        if self.to_minus_from:
            return jnp.swapaxes(self.pairs(y, x, *parameters, settings=settings)[0], 1, 2)
        return self.pairs(x, y, *parameters, settings=settings)[0]

    def backwards(self) -> DistanceForms:
        return self._replace(to_minus_from=not self.to_minus_from)


def elementwise(
    op: str, forms: DistanceForms, x: Array, y: Array, parameters: Sequence[Array], settings: Any, bidirectional: bool
) -> Distances:
    """Computes a distance of x and y, whose leading dimensions broadcast, in the form that the broadcast calls for."""
    if bidirectional:
        there = elementwise(op, forms, x, y, parameters, settings, False)
        return BothWays(there, elementwise(op, forms.backwards(), x, y, parameters, settings, False))
    shape = broadcast_sizes(op, x.shape, y.shape)
    plan = None if x.shape == y.shape else matrix_plan(x.shape, y.shape, shape)
    if plan is not None:
        parameters = [in_runs(op, parameter, shape, plan.shared) for parameter in parameters]
        return plan.unfold(forms.of_pairs(plan.rows_of_x(x), plan.rows_of_y(y), parameters, settings))
    parameters = [in_runs(op, parameter, shape, range(len(shape))) for parameter in parameters]
    rows, size = math.prod(shape), x.shape[-1]
    x, y = (jnp.broadcast_to(side, (*shape, size)).reshape(rows, size) for side in (x, y))
    out = forms.of_rows(x, y, parameters, settings)
    return out.reshape(*shape, *out.shape[1:])


def pairwise(
    op: str, forms: DistanceForms, x: Array, y: Array, parameters: Sequence[Array], settings: Any, bidirectional: bool
) -> Distances:
    """Computes a distance of every pair of rows of x (*b, N, D) and y (*b, M, D)."""
    check_pairwise_sizes(op, x.shape, y.shape)
    if bidirectional:
        there = pairwise(op, forms, x, y, parameters, settings, False)
        return BothWays(there, pairwise(op, forms.backwards(), x, y, parameters, settings, False))
    batch = broadcast_sizes(op, x.shape, y.shape, trailing=2)
    parameters = [in_runs(op, p, (*batch, x.shape[-2], y.shape[-2]), range(len(batch))) for p in parameters]
    x, y = (
        jnp.broadcast_to(side, (*batch, *side.shape[-2:])).reshape(math.prod(batch), *side.shape[-2:])
        for side in (x, y)
    )
    out = forms.of_pairs(x, y, parameters, settings)
    return out.reshape(*batch, *out.shape[1:])


def in_runs(op: str, parameter: Array, shape: tuple[int, ...], order: Sequence[int]) -> Array:
    """Returns a parameter (..., P), which broadcasts against distances of ``shape``, as (G, P), for G equal runs.

    The dimensions in ``order`` are those of the rows, or of the matrices; along the others it must be constant.
    """
    *sizes, own = parameter.shape
    padded = (*(1 for _ in shape[len(sizes) :]), *sizes)
    if len(padded) > len(shape) or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
        raise ValueError(f"{op}: weights must broadcast to {tuple(shape)} distances, got {tuple(sizes)}.")
    if any(size != 1 for d, size in enumerate(padded) if d not in order):
        raise ValueError(
            f"{op}: weights must be the same for all pairs of a matrix, got {tuple(sizes)} for {tuple(shape)} "
            "distances."
        )
    if 0 in shape:  # no distances, so no runs of them
        return parameter.sum(axis=tuple(range(len(sizes))))[None]
    last = max((place + 1 for place, d in enumerate(order) if padded[d] != 1), default=0)
    run_sizes = [shape[d] for d in order[:last]]
    parameter = parameter.reshape(*(padded[d] for d in order[:last]), own)
    return jnp.broadcast_to(parameter, (*run_sizes, own)).reshape(math.prod(run_sizes), own)

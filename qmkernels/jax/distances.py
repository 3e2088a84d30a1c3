"""Distances of x (..., D) to y (..., D) by kernels for matching rows and for all pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..arguments.broadcasting import broadcast_sizes, matrix_plan
from ..arguments.checks import check_pairwise_sizes
from . import arrays
from .kernel_call import Op


class BothWays(NamedTuple):
    """Distances in both directions, of the same shape."""

    x_to_y: Array
    y_to_x: Array


Distances = Array | BothWays


class DistanceForms(NamedTuple):
    """A distance's two forms: on matching rows, (R, D) and (R, D) to (R,), and on every pair of rows, (B, N, D) and
    (B, M, D) to (B, N, M); with ``to_minus_from``, the distance from y to x.

    A distance with ``parameter_dims`` has a parameter of these dimensions, or none. Further dimensions broadcast
    against the distances; the kernels take (G, ...), one for each of G equal runs of rows, or of matrices.
    """

    rows: Op
    pairs: Op
    parameter_dims: int | None = None
    to_minus_from: bool = False

    def of_rows(self, x: Array, y: Array, parameters: Sequence[Array], settings: Any) -> Array:
        if self.to_minus_from:
            x, y = y, x
        return self.rows(x, y, *parameters, settings=settings)[0]

    def of_pairs(self, x: Array, y: Array, parameters: Sequence[Array], settings: Any) -> Array:
        if self.to_minus_from:
            return jnp.swapaxes(self.pairs(y, x, *parameters, settings=settings)[0], 1, 2)
        return self.pairs(x, y, *parameters, settings=settings)[0]

    def in_runs(
        self, op: str, parameter: Array | None, x: Array, shape: tuple[int, ...], order: Sequence[int]
    ) -> list[Array]:
        """Returns the parameter for each run of distances of ``shape``, as the kernels' inputs.

        The dimensions in ``order`` are those of the rows, or of the matrices; along the others it must be constant.
        """
        if self.parameter_dims is None:
            return []
        if parameter is None:
            return [arrays.absent(x)]
        own = parameter.shape[parameter.ndim - self.parameter_dims :]
        sizes = parameter.shape[: parameter.ndim - self.parameter_dims]
        padded = (*(1 for _ in shape[len(sizes) :]), *sizes)
        if len(padded) > len(shape) or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
            raise ValueError(f"{op}: weights must broadcast to {shape} distances, got {parameter.shape}.")
        if any(size != 1 for d, size in enumerate(padded) if d not in order):
            raise ValueError(
                f"{op}: weights must be the same for all pairs of a matrix, got {parameter.shape} for {shape} "
                "distances."
            )
        if 0 in shape:  # no distances, so no runs of them
            return [parameter.sum(axis=tuple(range(len(sizes))))[None]]
        last = max((place + 1 for place, d in enumerate(order) if padded[d] != 1), default=0)
        runs = [shape[d] for d in order[:last]]
        parameter = parameter.reshape(*(padded[d] for d in order[:last]), *own)
        return [jnp.broadcast_to(parameter, (*runs, *own)).reshape(math.prod(runs), *own)]

    def backwards(self) -> DistanceForms:
        return self._replace(to_minus_from=not self.to_minus_from)


def elementwise(
    op: str, forms: DistanceForms, x: Array, y: Array, parameter: Array | None, settings: Any, bidirectional: bool
) -> Distances:
    """Computes a distance of x and y, whose leading dimensions broadcast, in the form that the broadcast calls for."""
    if bidirectional:
        there = elementwise(op, forms, x, y, parameter, settings, False)
        return BothWays(there, elementwise(op, forms.backwards(), x, y, parameter, settings, False))
    shape = broadcast_sizes(op, x.shape, y.shape)
    plan = None if x.shape == y.shape else matrix_plan(x.shape, y.shape, shape)
    if plan is not None:
        parameters = forms.in_runs(op, parameter, x, shape, plan.shared)
        return plan.unfold(forms.of_pairs(plan.rows_of_x(x), plan.rows_of_y(y), parameters, settings))
    parameters = forms.in_runs(op, parameter, x, shape, range(len(shape)))
    rows, size = math.prod(shape), x.shape[-1]
    x, y = (jnp.broadcast_to(side, (*shape, size)).reshape(rows, size) for side in (x, y))
    out = forms.of_rows(x, y, parameters, settings)
    return out.reshape(*shape, *out.shape[1:])


def pairwise(
    op: str, forms: DistanceForms, x: Array, y: Array, parameter: Array | None, settings: Any, bidirectional: bool
) -> Distances:
    """Computes a distance of every pair of rows of x (*b, N, D) and y (*b, M, D)."""
    check_pairwise_sizes(op, x.shape, y.shape)
    if bidirectional:
        there = pairwise(op, forms, x, y, parameter, settings, False)
        return BothWays(there, pairwise(op, forms.backwards(), x, y, parameter, settings, False))
    batch = broadcast_sizes(op, x.shape, y.shape, trailing=2)
    parameters = forms.in_runs(op, parameter, x, (*batch, x.shape[-2], y.shape[-2]), range(len(batch)))
    x, y = (
        jnp.broadcast_to(side, (*batch, *side.shape[-2:])).reshape(math.prod(batch), *side.shape[-2:])
        for side in (x, y)
    )
    out = forms.of_pairs(x, y, parameters, settings)
    return out.reshape(*batch, *out.shape[1:])

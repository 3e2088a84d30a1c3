"""Nearest rows of a bank by any quasimetric of JAX arrays, without the matrix of all distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.nearest import check, check_distances, check_size
from . import arrays
from .batching import fold
from .kernel_call import Result, call_kernel, kernel_primitive, one_of

# Queries and bank rows of a tile of distances. A program has one call per tile of the bank, hence their limit.
_TILE_QUERIES, _TILE_ROWS, _MOST_TILES = 512, 1024, 64


class Nearest(NamedTuple):
    """Distances in ascending order and the indices of their bank rows, both ``(..., k)``."""

    values: Array
    indices: Array


def _merge_results(distances: Any, values: Any, indices: Any, *, first: int) -> list[Result]:
    return [Result(values.shape, values.dtype), Result(indices.shape, indices.dtype, is_index=True)]


def _merge_kernel(distances: Array, values: Array, indices: Array, *, first: int) -> list[Array]:
    results = _merge_results(distances, values, indices, first=first)
    sizes = dict(rows=distances.shape[0], columns=distances.shape[1], k=values.shape[1], first=first)
    return call_kernel("nearest_merge", [distances], results, sizes, updated=[values, indices])


def _merge_definition(distances: Array, values: Array, indices: Array, *, first: int) -> list[Array]:
    k = values.shape[1]
    taken = min(first, k)  # every row has filled the same places
    here = first + jnp.arange(distances.shape[1], dtype=indices.dtype)
    everything = jnp.concatenate([values[:, :taken], distances], axis=1)
    everywhere = jnp.concatenate([indices[:, :taken], jnp.broadcast_to(here, distances.shape)], axis=1)
    order = jnp.argsort(everything, axis=1, stable=True)[:, :k]
    empty = ((0, 0), (0, k - order.shape[1]))
    return [
        jnp.pad(jnp.take_along_axis(everything, order, axis=1), empty, constant_values=jnp.nan),
        jnp.pad(jnp.take_along_axis(everywhere, order, axis=1), empty, constant_values=-1),
    ]


def _batched(primitive: Any, results: Callable, operands: Sequence[Array], dims: Any, *, first: int) -> Any:
    of_one = results(*one_of(operands, dims), first=first)
    return fold(lambda *folded: primitive.bind(*folded, first=first), operands, dims, of_one)


# Merges a tile of distances (R, T), from the bank's row ``first`` on, into the k smallest so far, values and indices.
nearest_merge = kernel_primitive("nearest_merge", _merge_results, _merge_kernel, _merge_definition, _batched)


@jax.custom_jvp
def _with_derivative_of(values: Array, same: Array) -> Array:
    """Returns ``values``, whose derivative is that of the same numbers computed in another way."""
    return values


@_with_derivative_of.defjvp
def _derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1].astype(primals[0].dtype)


def nearest(x: Array, y: Array, k: int = 1, *, metric: Callable[[Array, Array], Array]) -> Nearest:
    """Finds the k smallest distances from each row of ``x`` to the rows of a bank ``y``, and their indices:
    `qmkernels.nearest` for JAX arrays.

    It makes the matrix of distances one tile at a time, so memory does not grow with their number.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, the bank, ``(M, D)``, of x's dtype.
        k: number of neighbours, from 1 to M.
        metric: the distance, a function ``metric(x, y)`` that broadcasts leading dimensions, such as
            ``functools.partial(qmkernels.jax.iqe, dim_per_component=8)``.

    Returns:
        A named tuple: ``values`` (..., k), ascending, in the metric's unit, float32 for half inputs, else x's dtype;
        and ``indices`` (..., k), int32, or int64 where jax_enable_x64 is set. Equal distances keep the bank's order.

    Gradients flow through the values to x, y and what the metric depends on; for them the k distances are computed
    again. A NaN distance comes after all numbers.

    Raises:
        ValueError, TypeError: as `qmkernels.nearest`.
    """
    arrays.embeddings("nearest", x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    check(y.shape, k, metric)
    check_size(k, y.shape[0])
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    tiled = len(rows) // _TILE_QUERIES * _TILE_QUERIES
    parts = []
    if tiled:
        tiles = rows[:tiled].reshape(-1, _TILE_QUERIES, rows.shape[1])
        parts = [part.reshape(tiled, k) for part in jax.lax.map(lambda tile: _nearest_of(tile, y, k, metric), tiles)]
    rest = _nearest_of(rows[tiled:], y, k, metric)
    values, indices = (jnp.concatenate(p) for p in zip(parts, rest, strict=True)) if tiled else rest
    same = metric(rows[:, None], y[indices])
    return Nearest(_with_derivative_of(values, same).reshape(*x.shape[:-1], k), indices.reshape(*x.shape[:-1], k))


def _nearest_of(x: Array, y: Array, k: int, metric: Callable) -> tuple[Array, Array]:
    """Runs `nearest` for one tile of queries (R, D)."""
    dtype = arrays.in_compute_dtype(x).dtype
    values = jnp.full((x.shape[0], k), jnp.inf, dtype)
    indices = jnp.full((x.shape[0], k), -1, arrays.index_dtype())
    size = max(_TILE_ROWS, -(-y.shape[0] // _MOST_TILES))
    for first in range(0, y.shape[0], size):
        tile = y[first : first + size]
        distances = jax.lax.stop_gradient(metric(x[:, None], tile))
        check_distances(distances.shape, x.shape[0], tile.shape[0])
        values, indices = nearest_merge.bind(distances.astype(dtype), values, indices, first=first)
    return values, indices

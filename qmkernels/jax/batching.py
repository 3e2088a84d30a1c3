"""Batching rules: where a mapped axis goes in the kernels' shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .kernel_call import Op, Result

Batched = tuple[list[Array], list[int]]
Dims = Sequence[int | None]


def fold(bind: Callable, arrays: Sequence[Array], dims: Dims, results: Sequence[Result]) -> Batched:
    """Folds the mapped axis into the first dimension of every array, the rows or the matrices."""
    (size,) = {array.shape[d] for array, d in zip(arrays, dims, strict=True) if d is not None}
    folded = []
    for array, d in zip(arrays, dims, strict=True):
        array = jnp.broadcast_to(array, (size, *array.shape)) if d is None else jnp.moveaxis(array, d, 0)
        folded.append(array.reshape(size * array.shape[1], *array.shape[2:]))
    out = bind(*folded)
    return [array.reshape(size, *result.shape) for array, result in zip(out, results, strict=True)], [0] * len(out)


def one_by_one(bind: Callable, arrays: Sequence[Array], dims: Dims, results: Sequence[Result]) -> Batched:
    """Calls the kernel for each index of the mapped axis, for ops that add up all their rows."""
    mapped = [jnp.moveaxis(array, d, 0) for array, d in zip(arrays, dims, strict=True) if d is not None]

    def one(slices: list[Array]) -> list[Array]:
        rest = iter(slices)
        return bind(*(array if d is None else next(rest) for array, d in zip(arrays, dims, strict=True)))

    return jax.lax.map(one, mapped), [0] * len(results)


def pairs_forward(bind: Callable, arrays: Sequence[Array], dims: Dims, settings: Any) -> tuple[Array, int] | None:
    """Folds an axis mapped in one side alone into its rows; the other side is not copied."""
    (x, y, *parameters), (of_x, of_y, *of_parameters) = arrays, dims
    if (of_x is None) == (of_y is None) or any(d is not None for d in of_parameters):
        return None
    side = jnp.moveaxis(y, of_y, 1) if of_x is None else jnp.moveaxis(x, of_x, 1)  # (B, A, N, D)
    batch, size, rows, dim = side.shape
    side = side.reshape(batch, size * rows, dim)
    out = bind(*((x, side) if of_x is None else (side, y)), *parameters)[0]
    d = 2 if of_x is None else 1
    return out.reshape(*out.shape[:d], size, rows, *out.shape[d + 1 :]), d


def rows_forward(pairs: Op) -> Callable[..., tuple[Array, int] | None]:
    """Returns the rule by which one row, against another for each index, becomes a matrix of pairs: `jax.vmap` over x
    and over y is then one pairwise kernel."""

    def rule(bind: Callable, arrays: Sequence[Array], dims: Dims, settings: Any) -> tuple[Array, int] | None:
        (x, y, *parameters), (of_x, of_y, *of_parameters) = arrays, dims
        if (of_x is None) == (of_y is None) or any(d is not None for d in of_parameters):
            return None
        if (x if of_x is None else y).shape[0] != 1:
            return None
        x = x[None] if of_x is None else jnp.moveaxis(x, of_x, 1)  # (1, A, D) or (1, 1, D)
        y = y[None] if of_y is None else jnp.moveaxis(y, of_y, 1)
        (out,) = pairs(x, y, *parameters, settings=settings)
        return out.reshape(-1, 1, *out.shape[3:]), 0

    return rule

"""What the ops compute, in jax.numpy: the same formulas as those of qmkernels/definitions, on the kernels' shapes.

They are the derivatives beyond the first, and everything on platforms without kernels. Equal numbers in a maximum share
the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.iqe import IqeSettings
from ..arguments.mrn import MrnSettings


def every_pair(rows: Callable[..., Array]) -> Callable[..., tuple[Array]]:
    """Returns a definition for all pairs of rows of x (B, N, D) and y (B, M, D), from that for rows, (..., D).

    A row of x at a time, forward and backward, so nothing of size N x M x D exists.
    """

    def pairs(x: Array, y: Array, *parameters_and_settings: Any) -> tuple[Array]:
        *parameters, settings = parameters_and_settings

        @jax.checkpoint
        def from_one(x: Array) -> Array:
            return rows(x[:, None], y, *parameters, settings)[0]

        return (jnp.moveaxis(jax.lax.map(from_one, jnp.moveaxis(x, 1, 0)), 0, 1),)

    return pairs


def of_rows(parameter: Array, leading: tuple[int, ...], own_dims: int = 0) -> Array:
    """Repeats parameters of G equal runs, (G, ...), so that they broadcast against ``leading`` dimensions of rows."""
    own = parameter.shape[parameter.ndim - own_dims :]
    parameter = jnp.repeat(parameter, leading[0] // parameter.shape[0], axis=0)
    return parameter.reshape(leading[0], *(1 for _ in leading[1:]), *own)


def mrn(x: Array, y: Array, settings: MrnSettings) -> tuple[Array]:
    difference = x - y
    difference = difference.reshape(*difference.shape[:-1], settings.num_components, -1)
    half = difference.shape[-1] // 2
    if settings.asymmetric == "none":
        one_way, both_ways = difference[..., :0], difference
    elif settings.asymmetric == "first":
        one_way, both_ways = difference[..., :half], difference[..., half:]
    else:
        both_ways, one_way = difference[..., :half], difference[..., half:]
    parts = jnp.zeros(difference.shape[:-1], difference.dtype)
    if one_way.shape[-1]:
        parts = jax.nn.relu(one_way).max(axis=-1)
    if both_ways.shape[-1]:
        parts = parts + _symmetric(both_ways, settings)
    if settings.reduction == "sum":
        parts = parts.sum(axis=-1)
    elif settings.reduction == "mean":
        parts = parts.mean(axis=-1)
    return (parts * settings.scale,)


def _symmetric(difference: Array, settings: MrnSettings) -> Array:
    """Computes (squares) ** (p / 2); where it is 0, so are its derivatives."""
    if settings.eps_form == "difference":
        difference = difference + settings.eps
    squares = jnp.square(difference)
    squares = squares.sum(axis=-1) if settings.squares == "sum" else squares.mean(axis=-1)
    if settings.eps_form == "add":
        squares = squares + settings.eps
    elif settings.eps_form == "max":
        squares = jnp.maximum(squares, settings.eps)
    if settings.exponent == 2:
        return squares
    is_zero = squares == 0
    return jnp.where(is_zero, 0.0, jnp.where(is_zero, 1.0, squares) ** (settings.exponent / 2))


WEIGHT_LINKS = {
    "identity": lambda raw: raw,
    "sigmoid": jax.nn.sigmoid,
    "one_minus_sigmoid": lambda raw: jax.nn.sigmoid(-raw),
}


def iqe_components(x: Array, y: Array, dim_per_component: int) -> Array:
    """Computes the lengths of the unions: in the order of x, each interval adds what reaches beyond those before."""
    highest = jnp.finfo(x.dtype).max
    x, y = (jnp.clip(side, -highest, highest).reshape(*side.shape[:-1], -1, dim_per_component) for side in (x, y))
    order = jnp.argsort(x, axis=-1, stable=True)
    x = jnp.take_along_axis(x, order, axis=-1)
    shape = jnp.broadcast_shapes(x.shape, y.shape)
    y = jnp.take_along_axis(jnp.broadcast_to(y, shape), jnp.broadcast_to(order, shape), axis=-1)
    furthest = jax.lax.cummax(y, axis=y.ndim - 1)[..., :-1]
    furthest = jnp.concatenate([jnp.full_like(y[..., :1], -highest), furthest], axis=-1)
    return jax.nn.relu(y - jnp.where(furthest > x, furthest, x)).sum(axis=-1)


def iqe(x: Array, y: Array, max_weight: Array, settings: IqeSettings) -> tuple[Array]:
    lengths = iqe_components(x, y, settings.dim_per_component)
    if settings.reduction == "none":
        return (lengths,)
    if settings.reduction == "sum":
        return (lengths.sum(axis=-1),)
    mean, largest = lengths.mean(axis=-1), lengths.max(axis=-1)
    if settings.reduction != "maxmean":
        return (mean if settings.reduction == "mean" else largest,)
    weights = of_rows(WEIGHT_LINKS[settings.weight_link](max_weight), lengths.shape[:-1])
    return (mean + weights * (largest - mean),)


def pqe(x: Array, y: Array, weights: Array, settings: Any) -> tuple[Array]:
    difference = y - x
    exceeds = jnp.where(difference > 0, 0.0, difference).reshape(*difference.shape[:-1], -1, settings.dim_per_component)
    components = -jnp.expm1(exceeds.mean(axis=-1))
    if weights.size == 0:
        return (components,)
    return ((components * of_rows(weights, components.shape[:-1], 1)).sum(axis=-1),)

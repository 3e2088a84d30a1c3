"""Checks of arguments, shared by the losses; they see shapes and dtypes alone, so they run once, when a loss is traced.

The sentences are those of `qmkernels.losses`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from ..arrays import floats

Head = Callable[[Array, Array], Array]


def check_rows(loss: str, **arrays: Array) -> None:
    """Raises unless the arrays are float arrays (..., B, D) of one shape and dtype, with at least one row."""
    (first, like), *others = arrays.items()
    floats(loss, **arrays)
    for name, value in arrays.items():
        if value.ndim < 2:
            raise ValueError(f"{loss}: {name} must be (..., B, D), got {value.shape}.")
        if value.size == 0:
            raise ValueError(f"{loss}: {name} must have at least one row and one value, got {value.shape}.")
    for name, value in others:
        if value.shape != like.shape:
            raise ValueError(
                f"{loss}: {first} and {name} must have the same shape, got {like.shape} and {value.shape}."
            )


def check_pairs(loss: str, offset: int, **arrays: Array) -> None:
    """Raises unless two float arrays differ at most in their rows, and each row of the first has its match."""
    (name, x), (other, y) = arrays.items()
    floats(loss, **arrays)
    check_rows(loss, **{name: x})
    check_rows(loss, **{other: y})
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{loss}: {name} and {other} may differ only in their number of rows, got {x.shape} and {y.shape}."
        )
    if offset < 0 or offset + x.shape[-2] > y.shape[-2]:
        raise ValueError(
            f"{loss}: {other} must have the matches of {name} in its rows {offset} to {offset + x.shape[-2]}, got "
            f"{y.shape[-2]} rows."
        )


def per_row(loss: str, name: str, value: Array | float, like: Array) -> Array | float:
    """Returns a number as it is, or one number per row in the dtype of the distances ``like`` (..., B)."""
    if isinstance(value, int | float):
        return float(value)
    value = jnp.asarray(value)
    if value.ndim and value.shape != like.shape[-value.ndim :]:
        raise ValueError(f"{loss}: {name} must be a number or one per row, {like.shape}, got {value.shape}.")
    return value.astype(like.dtype)


def check_multiplier(loss: str, name: str, value: Array) -> None:
    """Raises unless ``value`` is a 0-d float array."""
    floats(loss, **{name: value})
    if value.ndim != 0:
        raise ValueError(f"{loss}: {name} must be a 0-d array, got {value.shape}.")


def check_head(loss: str, head: Head) -> None:
    """Raises unless ``head`` can be called."""
    if not callable(head):
        raise TypeError(f"{loss}: head must be a function of x and y, got {type(head).__name__}.")

"""Checks and conversions of the arrays that ops are given; the sentences are those of the PyTorch ops."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments.checks import check_embedding_sizes, different_dtypes, wrong_dtype

_COMPUTE_DTYPES = ("float32", "float64")
_FLOAT_DTYPES = (*_COMPUTE_DTYPES, "bfloat16", "float16")


def floats(op: str, **values: Any) -> list[Array]:
    """Returns arrays in the compute dtype, float32 for half ones; TypeError unless all are of one float dtype."""
    for name, value in values.items():
        if not isinstance(value, (Array, np.ndarray)):
            raise TypeError(f"{op}: {name} must be an array, got {type(value).__name__}.")
        if value.dtype.name not in _FLOAT_DTYPES:
            raise wrong_dtype(op, name, value.dtype, "astype(jnp.float32)")
    first, *others = values
    for other in others:
        if values[first].dtype != values[other].dtype:
            raise different_dtypes(op, **{first: values[first].dtype, other: values[other].dtype})
    return [in_compute_dtype(jnp.asarray(value)) for value in values.values()]


def in_compute_dtype(x: Array) -> Array:
    """Converts half arrays to float32, so that gradients come back in the input's dtype; returns others unchanged."""
    return x if x.dtype.name in _COMPUTE_DTYPES else x.astype(jnp.float32)


def embeddings(op: str, x: Any, y: Any) -> tuple[Array, Array]:
    """Returns x and y in the compute dtype; raises unless they are float arrays of one last size, not 0."""
    x, y = floats(op, x=x, y=y)
    check_embedding_sizes(op, x.shape, y.shape)
    return x, y


def absent(like: Array) -> Array:
    """Returns what stands for an input that is not there."""
    return jnp.zeros((0,), like.dtype)


def index_dtype() -> Any:
    """Returns the dtype of JAX's integers, without making one: programs are lowered where that cannot be done."""
    return jax.dtypes.canonicalize_dtype(np.int64)

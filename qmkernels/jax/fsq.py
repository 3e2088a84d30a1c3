"""Finite scalar quantisation of JAX arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.fsq import check_size, checked_levels, constants
from . import arrays
from .batching import fold
from .kernel_call import Op, Result


class Fsq(NamedTuple):
    """Codes ``(..., G * n)`` and the groups' indices ``(..., G)``."""

    codes: Array
    indices: Array


class FsqSettings(NamedTuple):
    levels: tuple[int, ...]


def _definition(z: Array, settings: FsqSettings) -> tuple[Array, Array]:
    shift, half, offset, width, place = zip(*constants(settings.levels), strict=True)
    shift, half, offset, width = (jnp.asarray(row, z.dtype) for row in (shift, half, offset, width))
    groups = z.reshape(*z.shape[:-1], -1, len(settings.levels))
    bounded = jnp.tanh(groups + shift) * half
    level = jnp.round(bounded - offset) + width
    digits = jnp.nan_to_num(level).astype(arrays.index_dtype())
    index = jnp.where(jnp.isnan(level).any(axis=-1), -1, (digits * jnp.asarray(place)).sum(axis=-1))
    smooth = bounded / width
    codes = jax.lax.stop_gradient((level - width) / width - smooth) + smooth
    return codes.reshape(z.shape), index.astype(arrays.index_dtype())


_fsq = Op(
    "fsq", num_wrt=1, num_results=2, num_outputs=2,
    results=lambda z, settings: [
        Result(z.shape, z.dtype), Result((z.shape[0], z.shape[1] // len(settings.levels)), arrays.index_dtype(), True)
    ],
    attributes=lambda z, settings: dict(groups=z.size // len(settings.levels), levels=settings.levels),
    backward_arguments=lambda grad, inputs, others: [grad, *inputs],
    definition=_definition,
    batch=fold,
)  # fmt: skip


def fsq(z: Array, levels: Sequence[int]) -> Fsq:
    """Rounds every value to one of a few levels, with a straight-through gradient: `qmkernels.fsq` for JAX arrays.

    Args:
        z: ``(..., G * n)``; float32, float64, bfloat16 or float16.
        levels: n ints from 2 to 1000.

    Returns:
        A named tuple: ``codes`` (..., G * n), float32 for half inputs, else z's dtype; and ``indices`` (..., G), int32,
        or int64 where jax_enable_x64 is set.

    The formula, gradient, NaN, infinities and errors are as for `qmkernels.fsq`; also a ValueError if the product of
    the levels does not fit the indices.
    """
    levels = checked_levels("fsq", levels)
    (z,) = arrays.floats("fsq", z=z)
    check_size(z.shape, levels)
    if math.prod(levels) > jnp.iinfo(arrays.index_dtype()).max:
        raise ValueError(
            f"fsq: the product of levels must be below 2^31 for int32 indices, got {list(levels)}; set jax_enable_x64."
        )
    rows = math.prod(z.shape[:-1])
    codes, indices = _fsq(z.reshape(rows, z.shape[-1]), settings=FsqSettings(levels))
    return Fsq(codes.reshape(z.shape), indices.reshape(*z.shape[:-1], z.shape[-1] // len(levels)))

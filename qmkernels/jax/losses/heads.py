"""How the losses call a head."""

from __future__ import annotations

import inspect
from functools import partial

import jax.numpy as jnp
from jax import Array

from ...arguments.iqe import INITIAL_MAX_WEIGHT, IqeSettings, check_settings
from ..arrays import absent
from ..iqe import iqe
from .checks import Head

# What the losses' kernels, which take an IQE head themselves, support.
_FUSED_REDUCTIONS = ("sum", "mean", "max", "maxmean")
_IQE = inspect.signature(iqe)


def every_pair(head: Head, x: Array, y: Array) -> Array:
    """Returns the distances (..., N, M) from every row of x, (..., N, D), to every row of y, (..., M, D).

    The distances of `qmkernels.jax` tell from such shapes that all pairs are meant.
    """
    pairwise = getattr(head, "pairwise", None)
    return head(x[..., :, None, :], y[..., None, :, :]) if pairwise is None else pairwise(x, y)


def fused_iqe(loss: str, head: Head, x: Array) -> tuple[IqeSettings, Array] | None:
    """Returns the head as an IQE that a loss's kernel computes for rows x, in the compute dtype: its settings and the
    weight of the maximum, (1,) or without elements; or None if the loss must call the head."""
    function, bound = (head.func, head) if isinstance(head, partial) else (head, partial(head))
    if function is not iqe:
        return None
    given = _IQE.bind(x, x, *bound.args, **bound.keywords)
    given.apply_defaults()
    _, _, dim_per_component, reduction, weight, bidirectional = given.args + tuple(given.kwargs.values())
    if reduction not in _FUSED_REDUCTIONS or bidirectional or getattr(weight, "ndim", 0):
        return None
    check_settings(loss, x.shape[-1], dim_per_component, reduction, weight)
    settings = IqeSettings(dim_per_component, reduction)
    if reduction != "maxmean":
        return settings, absent(x)
    return settings, jnp.asarray(INITIAL_MAX_WEIGHT if weight is None else weight, x.dtype).reshape(1)

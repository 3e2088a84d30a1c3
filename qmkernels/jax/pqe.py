"""PQE-LH of JAX arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments.checks import check_choice, check_count
from . import arrays, definitions, distances
from .batching import fold, pairs_forward, rows_forward
from .distances import DistanceForms
from .kernel_call import Op, Result

_REDUCTIONS = ("sum", "mean", "none")
# The weights' gradient is summed in groups of rows, each at least so large.
_MOST_GROUPS, _FEWEST_ROWS_PER_GROUP = 512, 4


class PqeSettings(NamedTuple):
    dim_per_component: int


def _out(x: Any, shape: tuple[int, ...], weights: Any, settings: PqeSettings) -> list[Result]:
    return [Result(shape if math.prod(weights.shape) else (*shape, x.shape[-1] // settings.dim_per_component), x.dtype)]


def _rows_per_group(rows: int) -> int:
    return max(-(-rows // _MOST_GROUPS), _FEWEST_ROWS_PER_GROUP)


def _attributes(x: Array, y: Array, weights: Array, settings: PqeSettings) -> dict[str, Any]:
    if x.ndim == 2:
        sizes = dict(rows=x.shape[0], rows_per_group=_rows_per_group(x.shape[0]))
    else:
        sizes = dict(batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1])
    num_weights = weights.shape[0] if weights.size else 1
    num_components = x.shape[-1] // settings.dim_per_component
    return dict(**sizes, num_components=num_components, num_weights=num_weights, **settings._asdict())


def _backward_results(x: Array, y: Array, weights: Array, settings: PqeSettings) -> list[Result]:
    """The weights' gradient comes in parts, (num_weights, parts, C)."""
    parts = weights.shape
    if weights.size:
        num_weights, num_components = weights.shape
        rows = x.shape[0] // num_weights
        groups = -(-rows // _rows_per_group(x.shape[0])) if x.ndim == 2 else rows * x.shape[1]
        parts = (num_weights, groups, num_components)
    return [Result(x.shape, x.dtype), Result(y.shape, x.dtype), Result(parts, x.dtype)]


def _finish(grads: list[Array]) -> list[Array]:
    """Adds up the parts, in two steps so that rounding grows with the root of their number."""
    grad_x, grad_y, parts = grads
    if parts.ndim == 3:
        num_weights, groups, num_components = parts.shape
        step = max(math.isqrt(groups), 1)
        parts = jnp.pad(parts, ((0, 0), (0, -groups % step), (0, 0)))
        parts = parts.reshape(num_weights, -1, step, num_components).sum(axis=2).sum(axis=1)
    return [grad_x, grad_y, parts]


def _backward_arguments(grad: Array, inputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    return [grad, *inputs]


_PAIRS = Op(
    "pqe_pairwise", num_wrt=3, num_results=1, num_outputs=1,
    results=lambda x, y, weights, settings: _out(x, (*x.shape[:2], y.shape[1]), weights, settings),
    attributes=_attributes,
    backward_arguments=_backward_arguments,
    backward_results=_backward_results,
    finish=_finish,
    definition=definitions.every_pair(definitions.pqe),
    batch=fold,
    batch_forward=pairs_forward,
)  # fmt: skip
_ROWS = Op(
    "pqe", num_wrt=3, num_results=1, num_outputs=1,
    results=lambda x, y, weights, settings: _out(x, x.shape[:1], weights, settings),
    attributes=_attributes,
    backward_arguments=_backward_arguments,
    backward_results=_backward_results,
    finish=_finish,
    definition=definitions.pqe,
    batch=fold,
    batch_forward=rows_forward(_PAIRS),
)  # fmt: skip
FORMS = DistanceForms(_ROWS, _PAIRS, parameter_dims=1)


def _prepared(
    op: str, x: Any, y: Any, dim_per_component: int, weights: Any, reduction: str
) -> tuple[Array, Array, Array | None]:
    """Returns the checked arguments in the compute dtype; weights for every reduction but "none"."""
    x, y = arrays.embeddings(op, x, y)
    check_count(op, "dim_per_component", dim_per_component, divides=x.shape[-1])
    check_choice(op, "reduction", reduction, _REDUCTIONS)
    num_components = x.shape[-1] // dim_per_component
    if weights is None:
        each = 1.0 if reduction == "sum" else 1.0 / num_components
        return x, y, None if reduction == "none" else jnp.full((num_components,), each, x.dtype)
    if reduction != "sum":
        raise ValueError(f"{op}: weights belong to reduction 'sum', got reduction {reduction!r}.")
    if not isinstance(weights, (Array, np.ndarray)):
        raise TypeError(f"{op}: weights must be an array, got {type(weights).__name__}.")
    if weights.ndim == 0 or weights.shape[-1] != num_components:
        raise ValueError(
            f"{op}: weights must be (..., {num_components}), one per component, got {tuple(weights.shape)}."
        )
    return x, y, jnp.asarray(weights, x.dtype)


def pqe(
    x: Array,
    y: Array,
    dim_per_component: int = 4,
    *,
    weights: Array | None = None,
    reduction: str = "sum",
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes the Poisson quasimetric embedding's distance from ``x`` to ``y``: `qmkernels.pqe` for JAX arrays.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype; leading dimensions broadcast, as for `mrn`.
        dim_per_component, weights, reduction, bidirectional: as for `qmkernels.pqe`.

    Returns:
        Distances ``(...)``, without unit; for reduction "none" components ``(..., C)``. float32 for half inputs, else
        x's dtype.

    Gradients, NaN and infinities are as for `qmkernels.pqe`, and so are the errors, raised when the call is traced.
    """
    x, y, weights = _prepared("pqe", x, y, dim_per_component, weights, reduction)
    return distances.elementwise("pqe", FORMS, x, y, weights, PqeSettings(dim_per_component), bidirectional)


def pqe_pairwise(
    x: Array,
    y: Array,
    dim_per_component: int = 4,
    *,
    weights: Array | None = None,
    reduction: str = "sum",
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes `pqe` from every row of ``x`` to every row of ``y``.

    ``out[..., i, j] = pqe(x[..., i, :], y[..., j, :])``. Backward keeps only the inputs. Deterministic.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions broadcast.
        dim_per_component, reduction, bidirectional: as for `pqe`.
        weights: as for `pqe`, but the same for all pairs of a matrix: (E, 1, 1, C) for distances (E, N, M).

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `pqe`.

    Gradients, NaN, infinities and errors are as for `pqe`; also a ValueError for arrays of fewer than two dimensions.
    """
    x, y, weights = _prepared("pqe_pairwise", x, y, dim_per_component, weights, reduction)
    return distances.pairwise("pqe_pairwise", FORMS, x, y, weights, PqeSettings(dim_per_component), bidirectional)

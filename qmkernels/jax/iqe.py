"""IQE of JAX arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from ..arguments.iqe import INITIAL_MAX_WEIGHT, IqeSettings, check_settings
from . import arrays, definitions, distances
from .batching import fold, pairs_forward, rows_forward
from .distances import DistanceForms
from .kernel_call import Op, Result


def kept_of_reduction(distances: tuple[int, ...], dtype: Any, reduction: str) -> list[Result]:
    """Returns ``largest`` and ``spread`` for distances of this shape: empty if the reduction has none."""
    has_maximum = reduction in ("max", "maxmean", "spread")
    largest = Result(distances if has_maximum else (0,), jnp.int32)
    return [largest, Result(distances if reduction == "maxmean" else (0,), dtype)]


def ends(rows: tuple[int, ...], size: int, dim_per_component: int) -> Result:
    """Returns the bits of ends that forward keeps for rows of ``size`` values."""
    return Result((*rows, size // dim_per_component, (2 * dim_per_component + 7) // 8), jnp.uint8)


def _out(x: Any, shape: tuple[int, ...], settings: IqeSettings) -> Result:
    num_components = x.shape[-1] // settings.dim_per_component
    return Result((*shape, num_components) if settings.reduction == "none" else shape, x.dtype)


def _attributes(x: Array, y: Array, max_weight: Array, settings: IqeSettings) -> dict[str, Any]:
    sizes = dict(rows=x.shape[0]) if x.ndim == 2 else dict(batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1])
    num_components = x.shape[-1] // settings.dim_per_component
    return dict(**sizes, num_components=num_components, num_weights=max_weight.size or 1, **settings._asdict())


def _rows_results(x: Any, y: Any, max_weight: Any, settings: IqeSettings) -> list[Result]:
    rows, size = x.shape
    kept = kept_of_reduction((rows,), x.dtype, settings.reduction)
    return [_out(x, (rows,), settings), ends((rows,), size, settings.dim_per_component), *kept]


def _pairs_results(x: Any, y: Any, max_weight: Any, settings: IqeSettings) -> list[Result]:
    pairs = (*x.shape[:2], y.shape[1])
    return [_out(x, pairs, settings), kept_of_reduction(pairs, x.dtype, settings.reduction)[0]]


def _rows_backward(grad: Array, inputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    return [grad, *others, inputs[2]]


def _pairs_backward(grad: Array, inputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    x, y, max_weight = inputs
    return [grad, x, y, *others, max_weight]


_PAIRS = Op(
    "iqe_pairwise", num_wrt=3, num_results=2, num_outputs=1, can_drop=True,
    results=_pairs_results,
    attributes=_attributes,
    backward_arguments=_pairs_backward,
    definition=definitions.every_pair(definitions.iqe),
    batch=fold,
    batch_forward=pairs_forward,
)  # fmt: skip
_ROWS = Op(
    "iqe", num_wrt=3, num_results=4, num_outputs=1, can_drop=True,
    results=_rows_results,
    attributes=_attributes,
    backward_arguments=_rows_backward,
    definition=definitions.iqe,
    batch=fold,
    batch_forward=rows_forward(_PAIRS),
)  # fmt: skip
FORMS = DistanceForms(_ROWS, _PAIRS, parameter_dims=0)


def _prepared(
    op: str, x: Any, y: Any, dim_per_component: int, reduction: str, max_weight: Any
) -> tuple[Array, Array, Array | None]:
    """Returns the checked arguments in the compute dtype; max_weight only if the reduction has one."""
    x, y = arrays.embeddings(op, x, y)
    check_settings(op, x.shape[-1], dim_per_component, reduction, max_weight)
    if reduction != "maxmean":
        return x, y, None
    return x, y, jnp.asarray(INITIAL_MAX_WEIGHT if max_weight is None else max_weight, x.dtype)


def iqe(
    x: Array,
    y: Array,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Array | float | None = None,
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes the interval quasimetric embedding's distance from ``x`` to ``y``: `qmkernels.iqe` for JAX arrays.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype; leading dimensions broadcast. If they form a matrix of pairs, as in ``iqe(x[:, None], y)``,
            the pairwise kernel runs.
        dim_per_component, reduction, max_weight, bidirectional: as for `qmkernels.iqe`.

    Returns:
        Distances ``(...)``, in the units of x and y; for reduction "none" components ``(..., C)``. float32 for half
        inputs, which are computed in float32, else x's dtype.

    Gradients, NaN and infinities are as for `qmkernels.iqe`, and so are the errors, raised when the call is traced.

    Example:
        >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.0, 3.0, 1.0])
        >>> qmkernels.jax.iqe(x, y, dim_per_component=3, reduction="sum")
        Array(3., dtype=float32)
    """
    x, y, max_weight = _prepared("iqe", x, y, dim_per_component, reduction, max_weight)
    return distances.elementwise(
        "iqe", FORMS, x, y, max_weight, IqeSettings(dim_per_component, reduction), bidirectional
    )


def iqe_pairwise(
    x: Array,
    y: Array,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Array | float | None = None,
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes `iqe` from every row of ``x`` to every row of ``y``.

    ``out[..., i, j] = iqe(x[..., i, :], y[..., j, :])``. Memory beyond inputs and output is of the inputs' size;
    backward keeps the inputs and, for reductions with a maximum, one int32 per pair. Deterministic.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions, an ensemble for example, broadcast.
        dim_per_component, reduction: as for `iqe`.
        max_weight: as for `iqe`, but the same for all pairs of a matrix: (E, 1, 1) for distances (E, N, M).
        bidirectional: as for `qmkernels.iqe_pairwise`.

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `iqe`.

    Gradients, NaN, infinities and errors are as for `iqe`; also a ValueError for arrays of fewer than two dimensions.
    """
    x, y, max_weight = _prepared("iqe_pairwise", x, y, dim_per_component, reduction, max_weight)
    settings = IqeSettings(dim_per_component, reduction)
    return distances.pairwise("iqe_pairwise", FORMS, x, y, max_weight, settings, bidirectional)

"""MRN of JAX arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array

from ..arguments.mrn import MrnSettings, resolved_settings
from . import arrays, definitions, distances
from .batching import fold, pairs_forward, rows_forward
from .distances import DistanceForms
from .kernel_call import Op, Result


def _result(x: Any, rows: tuple[int, ...], settings: MrnSettings) -> list[Result]:
    return [Result((*rows, settings.num_components) if settings.reduction == "none" else rows, x.dtype)]


def _pairs_attributes(x: Array, y: Array, settings: MrnSettings) -> dict[str, Any]:
    return dict(batch=x.shape[0], num_x=x.shape[1], num_y=y.shape[1], dim=x.shape[2], **settings._asdict())


def _backward_arguments(grad: Array, inputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    return [grad, *inputs]


_PAIRS = Op(
    "mrn_pairwise", num_wrt=2, num_results=1, num_outputs=1,
    results=lambda x, y, settings: _result(x, (*x.shape[:2], y.shape[1]), settings),
    attributes=_pairs_attributes,
    backward_arguments=_backward_arguments,
    definition=definitions.every_pair(definitions.mrn),
    batch=fold,
    batch_forward=pairs_forward,
)  # fmt: skip
_ROWS = Op(
    "mrn", num_wrt=2, num_results=1, num_outputs=1,
    results=lambda x, y, settings: _result(x, x.shape[:1], settings),
    attributes=lambda x, y, settings: dict(rows=x.shape[0], dim=x.shape[1], **settings._asdict()),
    backward_arguments=_backward_arguments,
    definition=definitions.mrn,
    batch=fold,
    batch_forward=rows_forward(_PAIRS),
)  # fmt: skip
FORMS = DistanceForms(_ROWS, _PAIRS)


def mrn(
    x: Array,
    y: Array,
    num_components: int | None = None,
    *,
    preset: str | None = None,
    asymmetric: str | None = None,
    squares: str | None = None,
    exponent: float | None = None,
    eps: float | None = None,
    eps_form: str | None = None,
    reduction: str | None = None,
    scale: float | None = None,
    to_minus_from: bool = False,
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes the distance of a metric residual network: `qmkernels.mrn` for JAX arrays.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype; leading dimensions broadcast. If they form a matrix of pairs, as in ``mrn(x[:, None], y)``,
            the pairwise kernel runs and nothing of size N x M x D exists.
        num_components, preset, asymmetric, squares, exponent, eps, eps_form, reduction, scale, to_minus_from,
            bidirectional: as for `qmkernels.mrn`.

    Returns:
        Distances ``(...)``, in the units of x and y; for reduction "none" components ``(..., C)``. float32 for half
        inputs, which are computed in float32, else x's dtype.

    Gradients, NaN and infinities are as for `qmkernels.mrn`, and so are the errors, raised when the call is traced.

    Example:
        >>> x, y = jnp.array([3.0, 0.0, 3.0, 4.0]), jnp.array([1.0, 5.0, 0.0, 0.0])
        >>> qmkernels.jax.mrn(x, y)
        Array(7., dtype=float32)
    """
    settings = dict(
        num_components=num_components, asymmetric=asymmetric, squares=squares, exponent=exponent, eps=eps,
        eps_form=eps_form, reduction=reduction, scale=scale,
    )  # fmt: skip
    x, y = arrays.embeddings("mrn", x, y)
    settings = resolved_settings("mrn", x.shape[-1], preset, settings)
    return distances.elementwise(
        "mrn", FORMS._replace(to_minus_from=to_minus_from), x, y, None, settings, bidirectional
    )


def mrn_pairwise(
    x: Array,
    y: Array,
    num_components: int | None = None,
    *,
    preset: str | None = None,
    asymmetric: str | None = None,
    squares: str | None = None,
    exponent: float | None = None,
    eps: float | None = None,
    eps_form: str | None = None,
    reduction: str | None = None,
    scale: float | None = None,
    to_minus_from: bool = False,
    bidirectional: bool = False,
) -> distances.Distances:
    """Computes `mrn` from every row of ``x`` to every row of ``y``.

    ``out[..., i, j] = mrn(x[..., i, :], y[..., j, :])``. Memory beyond inputs and output is of the inputs' size, and
    backward keeps only the inputs. Deterministic.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions, an ensemble for example, broadcast.
        num_components, preset, asymmetric, squares, exponent, eps, eps_form, reduction, scale, to_minus_from,
            bidirectional: as for `qmkernels.mrn_pairwise`.

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `mrn`.

    Gradients, NaN, infinities and errors are as for `mrn`; also a ValueError for arrays of fewer than two dimensions.

    Example:
        >>> x, y = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0, 2.0]])
        >>> qmkernels.jax.mrn_pairwise(x, y)
        Array([[2.],
               [1.]], dtype=float32)
    """
    settings = dict(
        num_components=num_components, asymmetric=asymmetric, squares=squares, exponent=exponent, eps=eps,
        eps_form=eps_form, reduction=reduction, scale=scale,
    )  # fmt: skip
    x, y = arrays.embeddings("mrn_pairwise", x, y)
    settings = resolved_settings("mrn_pairwise", x.shape[-1], preset, settings)
    forms = FORMS._replace(to_minus_from=to_minus_from)
    return distances.pairwise("mrn_pairwise", forms, x, y, None, settings, bidirectional)


def euclidean_pairwise(x: Array, y: Array) -> Array:
    """Computes the Euclidean distance from every row of ``x`` to every row of ``y``: `qmkernels.euclidean_pairwise` for
    JAX arrays.

    It squares the differences themselves, so d(x, x) is exactly 0 and near rows lose no digits. The gradient is finite
    everywhere, and 0 where the distance is 0.

    Args:
        x: ``(*b, N, D)``; float32, float64, bfloat16 or float16.
        y: ``(*b, M, D)``, of x's dtype; the batch dimensions broadcast.

    Returns:
        ``(*b, N, M)``; float32 for half inputs, else x's dtype.

    Errors are as for `mrn_pairwise`.
    """
    x, y = arrays.embeddings("euclidean_pairwise", x, y)
    return distances.pairwise("euclidean_pairwise", FORMS, x, y, None, MrnSettings(asymmetric="none"), False)

"""IQE for users: checks, broadcasting, autograd. Kernels are in backends; the definition is definitions/iqe.py."""

from __future__ import annotations

from torch import Tensor

from ..arguments.iqe import INITIAL_MAX_WEIGHT, IqeSettings, check_settings
from ..backends import dispatch
from ..definitions import iqe as definition
from ..definitions.dtypes import HALF
from . import arguments, broadcasting
from .autograd import Op, every_pair_gradient, every_pair_plain
from .registration import Kernel, schema_of

# --- The ops registered with torch, and their derivatives. The distance is piecewise linear in x and y: its first
# derivatives are the ends of the union. Higher derivatives only pass through grad_out and max_weight, which may be
# linked (definitions.iqe.WEIGHT_LINKS) and one per equal run of rows.

_SETTINGS = schema_of(IqeSettings)
_FORWARD = f"(Tensor x, Tensor y, Tensor? max_weight, {_SETTINGS}, bool keep, str backend)"


# For matching rows backward keeps the ends, two bits per value, and never x and y: of these, if they are in half
# precision, one number of their dtype.


def _saved(tensors, outputs):
    x, _, max_weight = tensors
    _, ends, largest, spread = outputs
    return ends, largest, max_weight, spread, x.new_empty(1) if x.dtype in HALF else None


def _backward(run, grad_out, saved, settings, needs):
    ends, largest, max_weight, spread, like = saved
    grad_x, grad_y, grad_max_weight = run(grad_out, ends, largest, spread, max_weight, *settings, needs[2], like)
    return grad_x, grad_y, grad_max_weight if needs[2] else None


def _gradient(grad_out, ends, largest, max_weight, spread, _, dim_per_component, reduction, weight_link):
    left, right = definition.unpack_ends(ends, dim_per_component)
    weights = definition.weights_of_rows(max_weight, weight_link, ends.shape[:-2])
    grad_x, grad_y = definition.gradient(grad_out, left, right, largest, weights, reduction)
    if max_weight is None:
        return grad_x, grad_y, None
    return grad_x, grad_y, definition.weight_gradient(grad_out, spread, max_weight, weight_link)


def _plain(x, y, max_weight, dim_per_component, reduction, weight_link):
    lengths = definition.components(x, y, dim_per_component)
    return definition.reduce(
        lengths, reduction, definition.weights_of_rows(max_weight, weight_link, lengths.shape[:-1])
    )


def _spread_gradient(grad_spread, ends, largest, max_weight, spread, _, dim_per_component, reduction, weight_link):
    left, right = definition.unpack_ends(ends, dim_per_component)
    grad_x, grad_y = definition.gradient(grad_spread, left, right, largest, None, "spread")
    return grad_x, grad_y, None


_ROWS = Op(
    "Iqe",
    Kernel("iqe", f"iqe_forward{_FORWARD} -> (Tensor, Tensor, Tensor, Tensor)", definition.iqe_forward_outputs),
    Kernel(
        "iqe",
        "iqe_backward(Tensor grad_out, Tensor ends, Tensor largest, Tensor spread, Tensor? max_weight,"
        f" {_SETTINGS}, bool need_weight, Tensor? like, str backend) -> (Tensor, Tensor, Tensor)",
        definition.iqe_backward_outputs,
    ),
    gradient=_gradient,
    plain=_plain,
    keeps=True,
    saved=_saved,
    backward=_backward,
    parameter=2,
    kept_derivative=3,
    kept_gradient=_spread_gradient,
)

# For all pairs it keeps x, y and the index of the largest component, and recomputes the ends pair by pair.


def _pairwise_backward(run, grad_out, saved, settings, needs):
    x, y, max_weight, largest = saved
    grad_x, grad_y, grad_max_weight = run(grad_out, x, y, largest, max_weight, *settings, needs[2])
    return grad_x, grad_y, grad_max_weight if needs[2] else None


def _pairwise_gradient(grad_out, x, y, max_weight, largest, dim_per_component, reduction, weight_link):
    left, right = definition.slopes(*definition.ends(x, y, dim_per_component))
    weights = definition.weights_of_rows(max_weight, weight_link, (x.shape[0], 1, 1))
    grad_x, grad_y = definition.gradient(grad_out, left, right, largest, weights, reduction)
    if max_weight is None:
        return grad_x, grad_y, None
    spread = definition.reduce(definition.components(x, y, dim_per_component), "spread")
    return grad_x, grad_y, definition.weight_gradient(grad_out, spread, max_weight, weight_link)


_PAIRS = Op(
    "IqePairwise",
    Kernel("iqe", f"iqe_pairwise_forward{_FORWARD} -> (Tensor, Tensor)", definition.iqe_pairwise_forward_outputs),
    Kernel(
        "iqe",
        "iqe_pairwise_backward(Tensor grad_out, Tensor x, Tensor y, Tensor largest, Tensor? max_weight,"
        f" {_SETTINGS}, bool need_weight, str backend) -> (Tensor, Tensor, Tensor)",
        definition.iqe_pairwise_backward_outputs,
    ),
    gradient=every_pair_gradient(_pairwise_gradient),
    plain=every_pair_plain(_plain),
    keeps=True,
    saved=lambda tensors, outputs: (*tensors, outputs[1]),
    backward=_pairwise_backward,
    parameter=2,
    pairwise=True,
)
# They take max_weight in the compute dtype.
FORMS = broadcasting.DistanceForms(_ROWS, _PAIRS, parameter_dims=0, rows_take_half=True)

# --- The public functions.


def _prepared(
    op: str, x: Tensor, y: Tensor, dim_per_component: int, reduction: str, max_weight: Tensor | float | None
) -> Tensor | None:
    """Checks the arguments; returns max_weight in the compute dtype if the reduction has one."""
    arguments.check_embeddings(op, x, y)
    check_settings(op, x.shape[-1], dim_per_component, reduction, max_weight)
    if reduction != "maxmean":
        return None
    weight = INITIAL_MAX_WEIGHT if max_weight is None else max_weight
    return arguments.tensor_like(op, "max_weight", weight, x)


def iqe(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Tensor | float | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    r"""Interval quasimetric embedding: the distance from ``x`` to ``y``.

    With the last dimension split into C components of K = ``dim_per_component`` values,

    .. math:: d_c(x, y) = \Big| \bigcup_{k=1}^{K} [x_{ck}, \max(x_{ck}, y_{ck})] \Big|

    the length of a union of intervals, and d reduces the components. It is a quasimetric: d(x, x) = 0 exactly, d >= 0,
    d(x, z) <= d(x, y) + d(y, z), and not symmetric.

    Args:
        x: from, ``(..., C * K)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype and device; leading dimensions broadcast. If they form a matrix of pairs, as in
            ``iqe(x[:, None], y)``, the pairwise kernel runs and nothing of size N x M x D exists.
        dim_per_component: K, at least 1; the paper recommends 8 or more.
        reduction: "sum", "mean", "max", "maxmean" = ``mean + max_weight * (max - mean)``, or "none".
        max_weight: for "maxmean", a number or a tensor, through which gradients flow: 0-d, or one per member of an
            ensemble, which broadcasts against the distances, for example (E, 1) for distances (E, B). torchqmet uses
            ``sigmoid(raw)``, where raw starts at -1; None means that initial value, 0.269. OGBench and TMD use
            ``1 - sigmoid(raw)``, where raw starts at 0.
        bidirectional: returns both directions, a named tuple (x_to_y, y_to_x).
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        Distances ``(...)``, in the units of x and y; for reduction "none" component lengths ``(..., C)``. float32 for
        half inputs, which are computed in float32, else x's dtype.

    The gradient by x is minus one at the left ends of the union's connected pieces, by y plus one at the right ends,
    times the reduction's weight; an empty interval gets none. Of coordinates that tie at an end, or components that tie
    for the maximum, one gets the gradient.

    NaN in a row gives NaN only in that row. An infinite coordinate counts as the largest finite number.

    Raises:
        ValueError: sizes that do not fit, or an unknown reduction or backend.
        TypeError: tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a backend that cannot run here.

    Source: Wang & Isola 2022, arXiv 2211.15120, section 3; reductions as in the torchqmet package.

    Example:
        >>> x, y = torch.tensor([0.0, 1.0, 5.0, 5.0]), torch.tensor([2.0, 3.0, 6.0, 4.0])
        >>> qm.iqe(x, y, dim_per_component=2, reduction="none")
        tensor([3., 1.])
    """
    max_weight = _prepared("iqe", x, y, dim_per_component, reduction, max_weight)
    settings, backend = IqeSettings(dim_per_component, reduction), dispatch.requested(backend)
    return broadcasting.elementwise("iqe", FORMS, x, y, (max_weight,), settings, backend, bidirectional)


def iqe_pairwise(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Tensor | float | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    """Computes `iqe` from every row of ``x`` to every row of ``y``, as ``torch.cdist`` pairs them.

    ``out[..., i, j] = iqe(x[..., i, :], y[..., j, :])``. It sorts each row of x once, not once per pair. Memory beyond
    inputs and output is of the inputs' size; backward keeps the inputs and, for reductions with a maximum, one int32
    per pair. Deterministic, forward and backward.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions broadcast.
        dim_per_component, reduction, backend: as for `iqe`.
        max_weight: as for `iqe`, but the same for all pairs of a matrix: (E, 1, 1) for distances (E, N, M).
        bidirectional: returns both directions: ``y_to_x[..., i, j] = iqe(y[..., j, :], x[..., i, :])``.

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `iqe`.

    Gradients, NaN, infinities and errors are as for `iqe`; also a ValueError for tensors of fewer than two dimensions.

    Source: as for `iqe`.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> qm.iqe_pairwise(x, y, dim_per_component=2, reduction="sum")
        tensor([[2.],
                [1.]])
    """
    max_weight = _prepared("iqe_pairwise", x, y, dim_per_component, reduction, max_weight)
    settings, backend = IqeSettings(dim_per_component, reduction), dispatch.requested(backend)
    return broadcasting.pairwise("iqe_pairwise", FORMS, x, y, (max_weight,), settings, backend, bidirectional)

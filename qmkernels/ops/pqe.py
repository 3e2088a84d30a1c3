"""PQE-LH for users: checks, broadcasting, autograd. PQE-GG is the module `nn.PQEGG` over the op ``poisson``."""

from __future__ import annotations

from torch import Tensor

from ..arguments.checks import check_choice, check_count
from ..backends import dispatch
from ..definitions import pqe as definition
from ..definitions.dtypes import compute_dtype
from . import arguments, broadcasting
from .autograd import Op, every_pair_gradient, every_pair_plain
from .registration import Kernel

_REDUCTIONS = ("sum", "mean", "none")


_FORWARD = "(Tensor x, Tensor y, Tensor? weights, int dim_per_component, str backend) -> Tensor"
_BACKWARD = (
    "(Tensor grad_out, Tensor x, Tensor y, Tensor? weights, int dim_per_component, bool need_weights, str backend)"
    " -> (Tensor, Tensor, Tensor)"
)


def _gradient(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    grad_x = definition.gradient(grad_out, x, y, weights, dim_per_component)
    if weights is None:
        return grad_x, -grad_x, None
    return grad_x, -grad_x, definition.gradient_of_weights(grad_out, x, y, weights, dim_per_component)


def _backward(run, grad_out, saved, settings, needs):
    grad_x, grad_y, grad_weights = run(grad_out, *saved, *settings, needs[2])
    return grad_x, grad_y, grad_weights if needs[2] else None


_ROWS = Op(
    "Pqe",
    Kernel("pqe", f"pqe_forward{_FORWARD}", definition.pqe_forward_outputs),
    Kernel("pqe", f"pqe_backward{_BACKWARD}", definition.pqe_backward_outputs),
    gradient=_gradient,
    plain=definition.pqe,
    backward=_backward,
    parameter=2,
    parameter_dims=1,
)
_PAIRS = Op(
    "PqePairwise",
    Kernel("pqe", f"pqe_pairwise_forward{_FORWARD}", definition.pqe_pairwise_forward_outputs),
    Kernel("pqe", f"pqe_pairwise_backward{_BACKWARD}", definition.pqe_backward_outputs),
    gradient=every_pair_gradient(_gradient),
    plain=every_pair_plain(definition.pqe),
    backward=_backward,
    parameter=2,
    parameter_dims=1,
    pairwise=True,
)
# They take weights in the compute dtype; the settings are ``(dim_per_component,)``.
FORMS = broadcasting.DistanceForms(_ROWS, _PAIRS, parameter_dims=1, rows_take_half=True)


def _prepared(
    op: str, x: Tensor, y: Tensor, dim_per_component: int, weights: Tensor | None, reduction: str
) -> Tensor | None:
    """Checks the arguments; returns weights in the compute dtype for every reduction but "none"."""
    arguments.check_embeddings(op, x, y)
    check_count(op, "dim_per_component", dim_per_component, divides=x.shape[-1])
    check_choice(op, "reduction", reduction, _REDUCTIONS)
    num_components = x.shape[-1] // dim_per_component
    if weights is None:
        if reduction == "none":
            return None
        return equal_weights(x, num_components, reduction)
    if reduction != "sum":
        raise ValueError(f"{op}: weights belong to reduction 'sum', got reduction {reduction!r}.")
    if not isinstance(weights, Tensor):
        raise TypeError(f"{op}: weights must be a tensor, got {type(weights).__name__}.")
    if weights.dim() == 0 or weights.shape[-1] != num_components:
        raise ValueError(
            f"{op}: weights must be (..., {num_components}), one per component, got {tuple(weights.shape)}."
        )
    if weights.device != x.device:
        raise RuntimeError(f"{op}: weights must be on {x.device}, like x, got {weights.device}.")
    dtype = compute_dtype(x)
    return weights if weights.dtype is dtype else weights.to(dtype)


def equal_weights(x: Tensor, num_components: int, reduction: str) -> Tensor:
    """Returns the weights that turn the weighted sum into the "sum" or the "mean"."""
    return arguments.constant(1.0 if reduction == "sum" else 1.0 / num_components, x, num_components)


def pqe(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 4,
    *,
    weights: Tensor | None = None,
    reduction: str = "sum",
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    r"""Poisson quasimetric embedding with half-lines, PQE-LH: the distance from ``x`` to ``y``.

    With the last dimension split into C components of K = ``dim_per_component`` values,

    .. math:: d_c(x, y) = 1 - \exp\Big(\frac{1}{K} \sum_{k=1}^{K} \min(y_{ck} - x_{ck}, 0)\Big)

    in [0, 1), and d is their weighted sum, a quasimetric if the weights are at least 0.

    Args:
        x: from, ``(..., C * K)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype and device; leading dimensions broadcast. If they form a matrix of pairs, as in
            ``pqe(x[:, None], y)``, the pairwise kernel runs and nothing of size N x M x D exists.
        dim_per_component: K, at least 1. Default 4.
        weights: ``(C,)``, through which gradients flow; the paper learns them (`nn.PQELH`). Weights per member of an
            ensemble have leading dimensions that broadcast against the distances, for example (E, 1, C) for distances
            (E, B). Default: ones.
        reduction: "sum", the only one that takes weights, "mean" or "none".
        bidirectional: returns both directions, a named tuple (x_to_y, y_to_x).
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        Distances ``(...)``, without unit; for reduction "none" components ``(..., C)``. float32 for half inputs, which
        are computed in float32, else x's dtype.

    The gradient by x_k is exp(...) / K times the weight where x_k >= y_k, else 0, and by y_k its negative; ties count
    as x_k > y_k, as in the published code.

    NaN in a row gives NaN only in that row; infinities give what the formula gives.

    Raises:
        ValueError: sizes that do not fit, weights with another reduction than "sum", or an unknown reduction or
            backend.
        TypeError: tensors that are not float or differ in dtype, or weights that are not a tensor.
        RuntimeError: different devices, or a backend that cannot run here.

    Source: Wang & Isola 2022, arXiv 2206.15478, equation 9, with the mean of section C.4.1.

    Example:
        >>> x, y = torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
        >>> qm.pqe(x, y, dim_per_component=2, reduction="none")
        tensor([0.3935, 0.6321])
    """
    weights = _prepared("pqe", x, y, dim_per_component, weights, reduction)
    settings, backend = (dim_per_component,), dispatch.requested(backend)
    return broadcasting.elementwise("pqe", FORMS, x, y, (weights,), settings, backend, bidirectional)


def pqe_pairwise(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 4,
    *,
    weights: Tensor | None = None,
    reduction: str = "sum",
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    """Computes `pqe` from every row of ``x`` to every row of ``y``, as ``torch.cdist`` pairs them.

    ``out[..., i, j] = pqe(x[..., i, :], y[..., j, :])``. Memory beyond inputs and output is of the inputs' size, and
    backward keeps only the inputs. Deterministic, forward and backward.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions broadcast.
        dim_per_component, reduction, backend: as for `pqe`.
        weights: as for `pqe`, but the same for all pairs of a matrix: (E, 1, 1, C) for distances (E, N, M).
        bidirectional: returns both directions: ``y_to_x[..., i, j] = pqe(y[..., j, :], x[..., i, :])``.

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `pqe`.

    Gradients, NaN, infinities and errors are as for `pqe`; also a ValueError for tensors of fewer than two dimensions.

    Source: as for `pqe`.

    Example:
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> qm.pqe_pairwise(x, y, dim_per_component=2)
        tensor([[0.3935],
                [0.0000]])
    """
    weights = _prepared("pqe_pairwise", x, y, dim_per_component, weights, reduction)
    settings, backend = (dim_per_component,), dispatch.requested(backend)
    return broadcasting.pairwise("pqe_pairwise", FORMS, x, y, (weights,), settings, backend, bidirectional)

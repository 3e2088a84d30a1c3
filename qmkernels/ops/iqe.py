"""IQE for users: checks, broadcasting, autograd. Kernels are in backends; the definition is definitions/iqe.py."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..backends import dispatch
from . import arguments, broadcasting
from .iqe_autograd import Iqe, IqeForwardMode, iqe_forward
from .iqe_pairwise_autograd import IqePairwise, IqePairwiseForwardMode, iqe_pairwise_forward
from .torch_modes import apply, records_derivative

_PUBLIC_REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
_INITIAL_MAX_WEIGHT = 1.0 / (1.0 + math.exp(1.0))


def _prepared(
    op: str, x: Tensor, y: Tensor, dim_per_component: int, reduction: str, max_weight: Tensor | float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The checked arguments in the dtype of the computation; max_weight only where the reduction has one."""
    arguments.check_embeddings(op, x, y)
    arguments.check_count(op, "dim_per_component", dim_per_component, divides=x.shape[-1])
    arguments.check_choice(op, "reduction", reduction, _PUBLIC_REDUCTIONS)
    x, y = arguments.in_compute_dtype(x), arguments.in_compute_dtype(y)
    if reduction != "maxmean":
        if max_weight is not None:
            raise ValueError(f"{op}: max_weight belongs to reduction 'maxmean', got reduction {reduction!r}.")
        return x, y, None
    weight = _INITIAL_MAX_WEIGHT if max_weight is None else max_weight
    return x, y, arguments.scalar_like(op, "max_weight", weight, x)


# How a form runs: what torch.compile traces, what eager autograd records, and the op itself where nothing is recorded.
_ELEMENTWISE = (Iqe, IqeForwardMode, iqe_forward)
_PAIRWISE = (IqePairwise, IqePairwiseForwardMode, iqe_pairwise_forward)


def _run(form: tuple, settings: tuple, x: Tensor, y: Tensor) -> Tensor:
    traced, recorded, op = form
    max_weight, dim_per_component, reduction, backend = settings
    if records_derivative(x, y, max_weight):
        return apply(traced if torch.compiler.is_compiling() else recorded, x, y, *settings)[0]
    return op(x, y, max_weight, dim_per_component, reduction, False, backend)[0]


def iqe(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Tensor | float | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> Tensor | broadcasting.BothWays:
    r"""Interval quasimetric embedding: the distance from ``x`` to ``y``.

    With the last dimension split into C components of K = ``dim_per_component`` values,

    .. math:: d_c(x, y) = \Big| \bigcup_{k=1}^{K} [x_{ck}, \max(x_{ck}, y_{ck})] \Big|

    the length of a union of intervals, and d is the components' reduction. A quasimetric: d(x, x) = 0 exactly,
    d >= 0, d(x, z) <= d(x, y) + d(y, z), not symmetric.

    Args:
        x: from, ``(..., C * K)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype and device; leading dimensions broadcast. Where they form a matrix of pairs, as in
            ``iqe(x[:, None], y)``, the pairwise kernel runs and nothing of size N x M x D exists.
        dim_per_component: K, at least 1; the paper recommends 8 or more.
        reduction: "sum", "mean", "max", "maxmean" = ``mean + max_weight * (max - mean)``, or "none".
        max_weight: for "maxmean", a number or a 0-d tensor, through which gradients flow. torchqmet's convention is
            ``sigmoid(raw)`` with raw from -1, and None stands for its initial value, 0.269; OGBench's and TMD's is
            ``1 - sigmoid(raw)`` with raw from 0.
        bidirectional: return both directions, a named tuple (x_to_y, y_to_x).
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        Distances ``(...)``, in the units of x and y; for reduction "none" component lengths ``(..., C)``. float32 for
        half inputs, which are computed in float32, else x's dtype.

    The gradient by x is minus one at the left ends of the union's connected pieces, by y plus one at the right ends,
    times the reduction's weight; an empty interval gets none. Where coordinates tie, one of them holds the end; where
    components tie for the maximum, one of them holds it.

    NaN in a row gives NaN in that row alone. An infinite coordinate counts as the largest finite number.

    Raises:
        ValueError: sizes that do not fit, an unknown reduction or backend. TypeError: not float tensors of one dtype.
        RuntimeError: different devices, or a backend that cannot run here.

    Source: Wang & Isola 2022, arXiv 2211.15120, section 3; reductions as in the torchqmet package.

    Example:
        >>> x, y = torch.tensor([0.0, 1.0, 5.0, 5.0]), torch.tensor([2.0, 3.0, 6.0, 4.0])
        >>> qm.iqe(x, y, dim_per_component=2, reduction="none")
        tensor([3., 1.])
    """
    x, y, max_weight = _prepared("iqe", x, y, dim_per_component, reduction, max_weight)
    settings = (max_weight, dim_per_component, reduction, dispatch.requested(backend))
    rows, pairs = partial(_run, _ELEMENTWISE, settings), partial(_run, _PAIRWISE, settings)
    return broadcasting.elementwise("iqe", x, y, rows, pairs, bidirectional)


def iqe_pairwise(
    x: Tensor,
    y: Tensor,
    dim_per_component: int = 16,
    *,
    reduction: str = "maxmean",
    max_weight: Tensor | float | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> Tensor | broadcasting.BothWays:
    """`iqe` from every row of ``x`` to every row of ``y``, as ``torch.cdist`` pairs them.

    ``out[..., i, j] = iqe(x[..., i, :], y[..., j, :])``. Each row of x is sorted once, not once a pair; memory beyond
    inputs and output is of the inputs' size, and backward keeps the inputs and, for reductions with a maximum, one
    int32 a pair. Deterministic, forward and backward.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions broadcast.
        dim_per_component, reduction, max_weight, backend: as for `iqe`.
        bidirectional: return both directions: ``y_to_x[..., i, j] = iqe(y[..., j, :], x[..., i, :])``.

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
    x, y, max_weight = _prepared("iqe_pairwise", x, y, dim_per_component, reduction, max_weight)
    pairs = partial(_run, _PAIRWISE, (max_weight, dim_per_component, reduction, dispatch.requested(backend)))
    return broadcasting.pairwise("iqe_pairwise", x, y, pairs, bidirectional)

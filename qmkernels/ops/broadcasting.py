"""Broadcasting of x (..., D) against y (..., D): finds leading dimensions that form a matrix of pairs, and runs a
distance in one of its two forms, on matching rows or on every pair of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments.broadcasting import broadcast_sizes, matrix_plan
from ..arguments.checks import check_pairwise_sizes
from ..definitions.dtypes import in_compute_dtype

# From this many values on, copying x and y for one call in both directions takes longer than a second call.
_LARGEST_STACK = 2**15


class BothWays(NamedTuple):
    """Distances in both directions, of the same shape."""

    x_to_y: Tensor
    y_to_x: Tensor


# A Tensor, or `BothWays` with bidirectional=True. For the union of both a type checker would reject tensor operations.
Distances = Tensor | Any


class DistanceForms(NamedTuple):
    """A distance's two forms, called with ``(tensors, settings, backend)``, such as two `autograd.Op`: on matching
    rows, x and y of one shape (..., D), and on every pair of rows, (B, N, D) and (B, M, D) to (B, N, M).

    With ``rows_take_half`` the first takes x and y in half precision, as users give them, and all other uses of x and y
    convert them before; otherwise users give them in the compute dtype.

    The tensors are x, y and, with ``parameter_dims``, a parameter or None. A parameter's further dimensions broadcast
    against the distances; the forms receive it as one per equal run of rows, or of matrices.
    """

    rows: Callable[[tuple[Tensor | None, ...], tuple, str], Tensor]
    pairs: Callable[[tuple[Tensor | None, ...], tuple, str], Tensor]
    parameter_dims: int | None = None
    rows_take_half: bool = False

    def backwards(self) -> DistanceForms:
        """Returns the forms of the distance from y to x."""

        def exchanged(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            x, y, *parameters = tensors
            return y, x, *parameters

        return DistanceForms(
            lambda tensors, settings, backend: self.rows(exchanged(tensors), settings, backend),
            lambda tensors, settings, backend: self.pairs(exchanged(tensors), settings, backend).transpose(1, 2),
            self.parameter_dims,
            self.rows_take_half,
        )

    def in_compute_dtype(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (in_compute_dtype(x), in_compute_dtype(y)) if self.rows_take_half else (x, y)

    def in_runs(
        self, op: str, parameters: tuple[Tensor | None, ...], shape: tuple[int, ...], order: Sequence[int]
    ) -> tuple[Tensor | None, ...]:
        """Returns the parameter, again in a tuple, as one per run for distances of ``shape``; the dimensions in
        ``order`` are those of the rows, or of the matrices, and along the others it must be constant."""
        if not parameters or parameters[0] is None or parameters[0].dim() == self.parameter_dims:
            return parameters
        (parameter,) = parameters
        trailing = parameter.shape[parameter.dim() - self.parameter_dims :]
        sizes = parameter.shape[: parameter.dim() - self.parameter_dims]
        padded = (1,) * (len(shape) - len(sizes)) + sizes
        if len(padded) > len(shape) or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
            raise ValueError(f"{op}: weights must broadcast to {tuple(shape)} distances, got {tuple(parameter.shape)}.")
        if any(size != 1 for d, size in enumerate(padded) if d not in order):
            raise ValueError(
                f"{op}: weights must be the same for all pairs of a matrix, got {tuple(parameter.shape)} for "
                f"{tuple(shape)} distances."
            )
        if 0 in shape:  # no distances, so no runs of them
            return (parameter.sum(dim=tuple(range(len(sizes)))),)
        parameter = parameter.reshape((*(padded[d] for d in order), *trailing))
        while parameter.dim() > len(trailing) and parameter.shape[-len(trailing) - 1] == 1:
            parameter = parameter.squeeze(-len(trailing) - 1)
        if parameter.dim() > len(trailing):
            run_sizes = [shape[d] for d in order[: parameter.dim() - len(trailing)]]
            parameter = parameter.expand(*run_sizes, *trailing).reshape(-1, *trailing)
        return (parameter,)


def elementwise(
    op: str,
    forms: DistanceForms,
    x: Tensor,
    y: Tensor,
    parameters: tuple[Tensor | None, ...],
    settings: tuple,
    backend: str,
    bidirectional: bool = False,
) -> Distances:
    """Runs a distance on x and y, whose leading dimensions broadcast, in the form that the broadcast calls for."""
    if bidirectional or x.shape != y.shape:
        x, y = forms.in_compute_dtype(x, y)
    if x.shape == y.shape:
        stacks = bidirectional and x.numel() < _LARGEST_STACK
        if parameters and parameters[0] is not None and parameters[0].dim() != forms.parameter_dims:
            shape = (2, *x.shape[:-1]) if stacks else x.shape[:-1]
            parameters = forms.in_runs(op, parameters, shape, range(len(shape)))
        if not bidirectional:
            return forms.rows((x, y, *parameters), settings, backend)
        if stacks:
            both = torch.stack([x, y]), torch.stack([y, x]), *parameters
            return BothWays(*forms.rows(both, settings, backend).unbind(0))
        there, back = (x, y, *parameters), (y, x, *parameters)
        return BothWays(forms.rows(there, settings, backend), forms.rows(back, settings, backend))
    shape = broadcast_sizes(op, x.shape, y.shape)
    plan = matrix_plan(x.shape, y.shape, shape)
    if plan is None:
        x, y = x.expand(*shape, x.shape[-1]), y.expand(*shape, y.shape[-1])
        return elementwise(op, forms, x, y, parameters, settings, backend, bidirectional)
    parameters = forms.in_runs(op, parameters, shape, plan.shared)
    x, y = plan.rows_of_x(x), plan.rows_of_y(y)
    out = plan.unfold(forms.pairs((x, y, *parameters), settings, backend))
    if not bidirectional:
        return out
    return BothWays(out, plan.unfold(forms.pairs((y, x, *parameters), settings, backend).transpose(1, 2)))


def pairwise(
    op: str,
    forms: DistanceForms,
    x: Tensor,
    y: Tensor,
    parameters: tuple[Tensor | None, ...],
    settings: tuple,
    backend: str,
    bidirectional: bool = False,
) -> Distances:
    """Runs a distance on every pair of x (*b, N, D) and y (*b, M, D)."""
    check_pairwise_sizes(op, x.shape, y.shape)
    x, y = forms.in_compute_dtype(x, y)
    batch = broadcast_sizes(op, x.shape, y.shape, trailing=2)
    parameters = forms.in_runs(op, parameters, (*batch, x.shape[-2], y.shape[-2]), range(len(batch)))
    x = x.expand(*batch, *x.shape[-2:]).reshape(math.prod(batch), *x.shape[-2:])
    y = y.expand(*batch, *y.shape[-2:]).reshape(math.prod(batch), *y.shape[-2:])
    out = forms.pairs((x, y, *parameters), settings, backend)
    out = out.reshape(*batch, *out.shape[1:])
    if not bidirectional:
        return out
    back = forms.pairs((y, x, *parameters), settings, backend).transpose(1, 2)
    return BothWays(out, back.reshape(*batch, *back.shape[1:]))


def every_pair(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Returns distances from every row of x (..., N, D) to every row of y (..., M, D), by a head or by a function of x
    and y that broadcasts."""
    by_kernel = getattr(distance, "pairwise", None)
    return distance(x.unsqueeze(-2), y.unsqueeze(-3)) if by_kernel is None else by_kernel(x, y)

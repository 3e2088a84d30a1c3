"""Broadcasting of x (..., D) against y (..., D): which leading dimensions form a matrix of pairs, and the two forms
that every distance has, rows against matching rows and every row against every row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Below this many rows on either side a matrix is not worth its own kernel: the rows are repeated instead.
_SMALLEST_MATRIX_SIDE = 8
# From this many values on, copies of x and y for one call in both directions take longer than a second call.
_LARGEST_STACK = 2**15


@dataclass(frozen=True)
class MatrixPlan:
    """Leading dimensions, by position: those that x and y share, those of x alone and those of y alone."""

    shape: tuple[int, ...]
    shared: tuple[int, ...]
    of_x: tuple[int, ...]
    of_y: tuple[int, ...]

    def _sizes(self, dimensions: tuple[int, ...]) -> list[int]:
        return [self.shape[d] for d in dimensions]

    def _rows(self, tensor: Tensor, own: tuple[int, ...], other: tuple[int, ...]) -> Tensor:
        missing = len(self.shape) + 1 - tensor.dim()
        tensor = tensor[(None,) * missing]
        tensor = tensor.permute(*self.shared, *own, *other, -1)
        return tensor.reshape(math.prod(self._sizes(self.shared)), math.prod(self._sizes(own)), tensor.shape[-1])

    def rows_of_x(self, x: Tensor) -> Tensor:
        """x as (B, N, D): B the shared dimensions, N those of x alone."""
        return self._rows(x, self.of_x, self.of_y)

    def rows_of_y(self, y: Tensor) -> Tensor:
        """y as (B, M, D)."""
        return self._rows(y, self.of_y, self.of_x)

    def unfold(self, pairs: Tensor) -> Tensor:
        """(B, N, M, ...) back to the broadcast shape (..., ...)."""
        order = (*self.shared, *self.of_x, *self.of_y)
        pairs = pairs.reshape(*self._sizes(order), *pairs.shape[3:])
        back = [order.index(d) for d in range(len(order))]
        return pairs.permute(*back, *range(len(order), pairs.dim()))


def broadcast_shape(op: str, x: Tensor, y: Tensor, trailing: int = 1) -> tuple[int, ...]:
    """The broadcast shape before the last ``trailing`` dimensions; ValueError where there is none."""
    x_sizes, y_sizes = x.shape[:-trailing], y.shape[:-trailing]
    rank = max(len(x_sizes), len(y_sizes))
    sizes = []
    for a, b in zip((1,) * (rank - len(x_sizes)) + x_sizes, (1,) * (rank - len(y_sizes)) + y_sizes, strict=True):
        if a != b and a != 1 and b != 1:
            raise ValueError(f"{op}: leading dimensions must broadcast, got x {tuple(x.shape)} and y {tuple(y.shape)}.")
        sizes.append(b if a == 1 else a)
    return tuple(sizes)


def matrix_plan(x: Tensor, y: Tensor, shape: tuple[int, ...]) -> MatrixPlan | None:
    """How the broadcast forms matrices of pairs, or None where x and y match row by row (or nearly so)."""
    shared, of_x, of_y = [], [], []
    for d in range(len(shape)):
        from_end = d - len(shape) - 1
        x_size = x.shape[from_end] if -from_end <= x.dim() else 1
        y_size = y.shape[from_end] if -from_end <= y.dim() else 1
        (shared if x_size == y_size else of_x if y_size == 1 else of_y).append(d)
    num_x, num_y = math.prod([shape[d] for d in of_x]), math.prod([shape[d] for d in of_y])
    if max(num_x, num_y) < _SMALLEST_MATRIX_SIDE or math.prod(shape) == 0:
        return None
    return MatrixPlan(shape, tuple(shared), tuple(of_x), tuple(of_y))


class BothWays(NamedTuple):
    """The distances in both directions, of one shape."""

    x_to_y: Tensor
    y_to_x: Tensor


class DistanceForms(NamedTuple):
    """A distance's two forms, ``(x, y, *settings)``: of matching rows, x and y of one shape (..., D), and of every row
    with every row, (B, N, D) and (B, M, D) to (B, N, M).

    With ``parameter_dims`` the first of the settings is a parameter, or None. One of more dimensions broadcasts by them
    against the distances; the forms get it as one for each of equal runs of rows, or of matrices.
    """

    rows: Callable[..., Tensor]
    pairs: Callable[..., Tensor]
    parameter_dims: int | None = None

    def in_runs(self, op: str, settings: tuple, shape: tuple[int, ...], order: tuple[int, ...]) -> tuple:
        """The settings with the parameter for distances of ``shape``, whose dimensions in ``order`` are those of the
        rows, or of the matrices; along the others it must not differ."""
        if self.parameter_dims is None or settings[0] is None or settings[0].dim() == self.parameter_dims:
            return settings
        parameter, *others = settings
        own = parameter.shape[parameter.dim() - self.parameter_dims :]
        sizes = parameter.shape[: parameter.dim() - self.parameter_dims]
        padded = (1,) * (len(shape) - len(sizes)) + sizes
        if len(padded) > len(shape) or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
            raise ValueError(f"{op}: weights of {tuple(parameter.shape)} do not broadcast to {tuple(shape)} distances.")
        if any(size != 1 for d, size in enumerate(padded) if d not in order):
            raise ValueError(
                f"{op}: weights of {tuple(parameter.shape)} differ within a matrix of pairs, {tuple(shape)} distances."
            )
        if 0 in shape:  # no distances, and so no runs of them
            return parameter.sum(dim=tuple(range(len(sizes)))), *others
        parameter = parameter.reshape((*(padded[d] for d in order), *own))
        while parameter.dim() > len(own) and parameter.shape[-len(own) - 1] == 1:
            parameter = parameter.squeeze(-len(own) - 1)
        if parameter.dim() > len(own):
            run_sizes = [shape[d] for d in order[: parameter.dim() - len(own)]]
            parameter = parameter.expand(*run_sizes, *own).reshape(-1, *own)
        return parameter, *others


def elementwise(
    op: str, forms: DistanceForms, x: Tensor, y: Tensor, *settings, bidirectional: bool = False
) -> Tensor | BothWays:
    """Runs a distance on x and y, whose leading dimensions broadcast, in the form that this makes of them."""
    if x.shape == y.shape:
        stacks = bidirectional and x.numel() < _LARGEST_STACK
        if forms.parameter_dims is not None:
            shape = (2, *x.shape[:-1]) if stacks else x.shape[:-1]
            settings = forms.in_runs(op, settings, shape, tuple(range(len(shape))))
        if not bidirectional:
            return forms.rows(x, y, *settings)
        if stacks:
            return BothWays(*forms.rows(torch.stack([x, y]), torch.stack([y, x]), *settings).unbind(0))
        return BothWays(forms.rows(x, y, *settings), forms.rows(y, x, *settings))
    shape = broadcast_shape(op, x, y)
    plan = matrix_plan(x, y, shape)
    if plan is None:
        x, y = x.expand(*shape, x.shape[-1]), y.expand(*shape, y.shape[-1])
        return elementwise(op, forms, x, y, *settings, bidirectional=bidirectional)
    settings = forms.in_runs(op, settings, shape, plan.shared)
    rows_of_x, rows_of_y = plan.rows_of_x(x), plan.rows_of_y(y)
    out = plan.unfold(forms.pairs(rows_of_x, rows_of_y, *settings))
    if not bidirectional:
        return out
    return BothWays(out, plan.unfold(forms.pairs(rows_of_y, rows_of_x, *settings).transpose(1, 2)))


def pairwise(
    op: str, forms: DistanceForms, x: Tensor, y: Tensor, *settings, bidirectional: bool = False
) -> Tensor | BothWays:
    """Runs a distance on every pair of x (*b, N, D) and y (*b, M, D)."""
    if x.dim() < 2 or y.dim() < 2:
        raise ValueError(f"{op}: x and y must be (*b, N, D) and (*b, M, D), got {tuple(x.shape)} and {tuple(y.shape)}.")
    batch = broadcast_shape(op, x, y, trailing=2)
    settings = forms.in_runs(op, settings, (*batch, x.shape[-2], y.shape[-2]), tuple(range(len(batch))))
    x = x.expand(*batch, *x.shape[-2:]).reshape(math.prod(batch), *x.shape[-2:])
    y = y.expand(*batch, *y.shape[-2:]).reshape(math.prod(batch), *y.shape[-2:])
    out = forms.pairs(x, y, *settings)
    out = out.reshape(*batch, *out.shape[1:])
    if not bidirectional:
        return out
    back = forms.pairs(y, x, *settings).transpose(1, 2)
    return BothWays(out, back.reshape(*batch, *back.shape[1:]))


def every_pair(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Distances from every row of x (..., N, D) to every row of y (..., M, D), by a head or by a function of x and y,
    which broadcasts."""
    own = getattr(distance, "pairwise", None)
    return distance(x.unsqueeze(-2), y.unsqueeze(-3)) if own is None else own(x, y)

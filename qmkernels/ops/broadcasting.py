"""Broadcasting of x (..., D) against y (..., D): which leading dimensions form a matrix of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

# Below this many rows on either side a matrix is not worth its own kernel: the rows are repeated instead.
_SMALLEST_MATRIX_SIDE = 8


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

"""Broadcasting of x (..., D) against y (..., D): finds leading dimensions that form a matrix of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# With fewer rows than this on either side the pairwise kernel does not pay: the rows are repeated instead.
_SMALLEST_MATRIX_SIDE = 8


@dataclass(frozen=True)
class MatrixPlan:
    """Leading dimensions, by position: those shared by x and y, those only in x and those only in y."""

    shape: tuple[int, ...]
    shared: tuple[int, ...]
    of_x: tuple[int, ...]
    of_y: tuple[int, ...]

    def _sizes(self, dimensions: tuple[int, ...]) -> list[int]:
        return [self.shape[d] for d in dimensions]

    def _rows(self, tensor: Any, own: tuple[int, ...], other: tuple[int, ...]) -> Any:
        missing = len(self.shape) + 1 - tensor.ndim
        tensor = tensor[(None,) * missing]
        tensor = _permuted(tensor, (*self.shared, *own, *other, tensor.ndim - 1))
        return tensor.reshape(math.prod(self._sizes(self.shared)), math.prod(self._sizes(own)), tensor.shape[-1])

    def rows_of_x(self, x: Any) -> Any:
        """Reshapes x to (B, N, D): B from the shared dimensions, N from those only in x."""
        return self._rows(x, self.of_x, self.of_y)

    def rows_of_y(self, y: Any) -> Any:
        """Reshapes y to (B, M, D)."""
        return self._rows(y, self.of_y, self.of_x)

    def unfold(self, pairs: Any) -> Any:
        """Reshapes (B, N, M, ...) back to the broadcast shape (..., ...)."""
        order = (*self.shared, *self.of_x, *self.of_y)
        pairs = pairs.reshape(*self._sizes(order), *pairs.shape[3:])
        back = [order.index(d) for d in range(len(order))]
        return _permuted(pairs, (*back, *range(len(order), pairs.ndim)))


def _permuted(array: Any, order: tuple[int, ...]) -> Any:
    """Permutes dimensions, which torch calls permute and JAX transpose."""
    # By what only JAX's arrays have: torch.compile of torch 2.6 says that a tensor lacks permute.
    return array.transpose(order) if hasattr(array, "at") else array.permute(order)


def broadcast_sizes(op: str, x: Sequence[int], y: Sequence[int], trailing: int = 1) -> tuple[int, ...]:
    """Returns the broadcast sizes before the last ``trailing`` dimensions; ValueError if there are none."""
    x_sizes, y_sizes = x[:-trailing], y[:-trailing]
    rank = max(len(x_sizes), len(y_sizes))
    sizes = []
    for a, b in zip(
        (1,) * (rank - len(x_sizes)) + tuple(x_sizes), (1,) * (rank - len(y_sizes)) + tuple(y_sizes), strict=True
    ):
        if a != b and a != 1 and b != 1:
            raise ValueError(f"{op}: leading dimensions must broadcast, got x {tuple(x)} and y {tuple(y)}.")
        sizes.append(b if a == 1 else a)
    return tuple(sizes)


def matrix_plan(x: Sequence[int], y: Sequence[int], shape: tuple[int, ...]) -> MatrixPlan | None:
    """Returns how the broadcast forms matrices of pairs, or None if rows match (or nearly so)."""
    shared, of_x, of_y = [], [], []
    for d in range(len(shape)):
        from_end = d - len(shape) - 1
        x_size = x[from_end] if -from_end <= len(x) else 1
        y_size = y[from_end] if -from_end <= len(y) else 1
        (shared if x_size == y_size else of_x if y_size == 1 else of_y).append(d)
    num_x, num_y = math.prod([shape[d] for d in of_x]), math.prod([shape[d] for d in of_y])
    if max(num_x, num_y) < _SMALLEST_MATRIX_SIDE or math.prod(shape) == 0:
        return None
    return MatrixPlan(shape, tuple(shared), tuple(of_x), tuple(of_y))

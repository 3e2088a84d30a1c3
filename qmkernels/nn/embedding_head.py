"""The base of this package's heads: embeds each row once, then runs one kernel if there is one, else blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import dispatch
from ..backends.native import core
from ..definitions.dtypes import in_compute_dtype
from ..ops import arguments, broadcasting
from ..ops.broadcasting import BothWays, DistanceForms, Distances
from ..ops.torch_internals import has_plain_tensors
from .quasimetric_base import QuasimetricBase
from .reductions import FusedReduction, fused_reduction

# A distance that one kernel computes from embedded rows: its forms, their parameters and settings, and a function from
# their result to the module's, or None. A plain tuple, because every call makes one.
FusedDistance = tuple[DistanceForms, tuple[Tensor | None, ...], tuple, Callable[[Tensor], Tensor] | None]

# A distance that a loss's kernel computes itself, from embedded rows: the name of its op, the rows, their parameters
# and settings.
FusedRows = tuple[str, Tensor, Tensor, tuple[Tensor | None, ...], tuple]


class Pairs(NamedTuple):
    """How to compute pairs: the rows, a function to a pair's components, and the number of values a pair needs."""

    x: Tensor
    y: Tensor
    compare: Callable[[Tensor, Tensor], Tensor]
    values_per_pair: int


class EmbeddingHead(QuasimetricBase):
    """A head of this package, which compares embedded rows; users derive their own from `QuasimetricBase`.

    A subclass implements `_compare` and, for speed, `_embed`, `_fused` and `_pairs`. A user's subclass that overrides
    ``compute_components`` or ``forward`` is computed as `QuasimetricBase` does.
    """

    # What a user's subclass overrides, looked up once per class instead of once per call.
    _own_components = _own_forward = _embeds = False
    # The name of the op in `_fused`, where losses have kernels for it; None: they call this module.
    _fused_op: str | None = None

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        cls._own_components = cls.compute_components is not EmbeddingHead.compute_components
        cls._own_forward = cls.forward is not EmbeddingHead.forward
        cls._embeds = cls._embed is not EmbeddingHead._embed

    def _embed(self, rows: Tensor) -> Tensor:
        """Embeds rows for comparison, (n, input_size) to (n, size); runs once per row."""
        return rows

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the components of embedded rows, (..., num_components); leading dimensions broadcast."""
        raise NotImplementedError

    def _fused(self, x: Tensor) -> FusedDistance | None:
        """Returns the kernel from embedded rows, in x's compute dtype and device, to distances; None if no kernel has
        these transforms and this reduction."""
        return None

    def fused_rows(self, x: Tensor, y: Tensor) -> FusedRows | None:
        """Returns what a loss's kernel needs to compute this distance of matching rows, float tensors (..., D) of one
        dtype and device, or None if losses must call this module."""
        if self._fused_op is None or self._own_components or self._own_forward or self.discount is not None:
            return None
        self._check_sizes(x, y)
        fused = self._fused(x)
        if fused is None:
            return None
        _, parameters, settings, _ = fused
        for parameter in parameters:
            if parameter is not None and parameter.dim():
                return None
        if self._embeds:
            x, y = self._embedded(in_compute_dtype(x), in_compute_dtype(y))
        return self._fused_op, x, y, parameters, settings

    def _pairs(self, x: Tensor, y: Tensor) -> Pairs:
        """Returns how to compare all pairs of embedded rows (B, N, size) and (B, M, size)."""
        return Pairs(x, y, self._compare, x.shape[-1])

    def _fused_reduction(self, supported: tuple[str, ...]) -> FusedReduction | None:
        """Returns this head's reduction for a kernel that supports the reductions ``supported``, or None."""
        modules = self._modules  # looking them up as attributes takes as long as a small kernel
        return None if modules["transforms"]._modules else fused_reduction(modules["reduction"], supported)

    def compute_components(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the components of the distance, ``(..., num_components)``, from x to y, ``(..., input_size)``."""
        return self._compare(*self._embedded(x, y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the distance from x to y, ``(...)``; leading dimensions broadcast."""
        if self._own_components:
            return super().forward(x, y)
        return self._distance(broadcasting.elementwise, x, y, bidirectional=False)

    def bidirectional(self, x: Tensor, y: Tensor) -> BothWays:
        """Returns the distances in both directions, a named tuple ``(x_to_y, y_to_x)`` of ``(...)``."""
        if self._own_components or self._own_forward:
            return super().bidirectional(x, y)
        return self._distance(broadcasting.elementwise, x, y, bidirectional=True)

    def pairwise(self, x: Tensor, y: Tensor, bidirectional: bool = False) -> Distances:
        """Returns distances from every row of x, ``(*b, N, D)``, to every row of y, ``(*b, M, D)``: ``(*b, N, M)``.

        With ``bidirectional``, both directions in that shape. Nothing of size N x M x D is stored.
        """
        if self._own_components or self._own_forward:
            return super().pairwise(x, y, bidirectional)
        self._check_rows(x, y)
        return self._distance(broadcasting.pairwise, x, y, bidirectional)

    @classmethod
    def _num_components(cls, input_size: int, dim_per_component: int) -> int:
        """Returns the number of components of that size; ValueError if they do not fit."""
        if dim_per_component < 1:
            raise ValueError(f"{cls.__name__}: dim_per_component must be at least 1, got {dim_per_component}.")
        if input_size % dim_per_component != 0:
            raise ValueError(
                f"{cls.__name__}: input_size must be a multiple of dim_per_component, "
                f"got input_size={input_size} and dim_per_component={dim_per_component}."
            )
        return input_size // dim_per_component

    def _embedded(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds x and y before broadcasting: N + M rows, in one pass."""
        if not self._embeds:
            return x, y
        arguments.check_floats(type(self).__name__, x=x, y=y)
        if x is y:
            embedded = self._embed(x)
            return embedded, embedded
        rows = [x.reshape(-1, self.input_size), y.reshape(-1, self.input_size)]
        parts = self._embed(torch.cat(rows)).split(
            [part.shape[0] for part in rows]
        )  # len() would fix the sizes in torch.export
        return tuple(part.reshape(*z.shape[:-1], part.shape[-1]) for part, z in zip(parts, (x, y), strict=True))

    def _distance(self, pairing: Callable, x: Tensor, y: Tensor, bidirectional: bool) -> Distances:
        name = type(self).__name__
        if not (has_plain_tensors() and core.are_embeddings(x, y, self.input_size)):
            self._check_sizes(x, y)
            arguments.check_floats(name, x=x, y=y)
        if self._embeds:
            x, y = self._embedded(in_compute_dtype(x), in_compute_dtype(y))
        fused = self._fused(x)
        if fused is None or not fused[0].rows_take_half:
            x, y = in_compute_dtype(x), in_compute_dtype(y)
        if fused is None:
            composed = DistanceForms(lambda rows, *_: self._rows(*rows), lambda rows, *_: self._blocks(*rows))
            return pairing(name, composed, x, y, (), (), "", bidirectional)
        forms, parameters, settings, finish = fused
        out = pairing(name, forms, x, y, parameters, settings, dispatch.requested(None), bidirectional)
        if finish is None:
            return out
        return BothWays(*map(finish, out)) if bidirectional else finish(out)

    def _rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes components, transforms and reduction for matching rows."""
        return self._reduced(self._compare(x, y))

    def _blocks(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the same for every pair of rows, in blocks of rows."""
        x, y, compare, values_per_pair = self._pairs(x, y)
        return self._in_row_blocks(
            lambda x, y: self._reduced(compare(x.unsqueeze(-2), y.unsqueeze(-3))), x, y, values_per_pair
        )

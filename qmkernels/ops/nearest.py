"""Nearest rows of a bank by any quasimetric, without the matrix of all distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.nearest import check, check_distances, check_size
from ..backends import dispatch
from ..definitions import nearest as definition
from ..definitions.dtypes import in_compute_dtype
from . import arguments, broadcasting
from .registration import Kernel
from .torch_internals import records_derivative

# Queries and bank rows of a tile of distances: small enough for a CPU's cache, large enough to fill a GPU.
_TILE_QUERIES = {"cpu": 512, "cuda": 4096}
_TILE_ROWS = {"cpu": 1024, "cuda": 8192}


nearest_merge = Kernel(
    "nearest",
    "nearest_merge(Tensor distances, Tensor values, Tensor indices, int first, str backend) -> (Tensor, Tensor)",
    definition.nearest_merge_outputs,
)


class Nearest(NamedTuple):
    """Distances in ascending order and the indices of their bank rows, both ``(..., k)``."""

    values: Tensor
    indices: Tensor


def nearest(
    x: Tensor, y: Tensor, k: int = 1, *, metric: Callable[[Tensor, Tensor], Tensor], backend: str | None = None
) -> Nearest:
    """Finds the k smallest distances from each row of ``x`` to the rows of a bank ``y``, and their indices.

    Equals ``metric.pairwise(x, y).topk(k, largest=False)`` with ties in the order of the bank, but makes the matrix of
    distances one tile at a time: memory beyond inputs and result does not depend on the size of the bank.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, the bank, ``(M, D)``, of x's dtype and device.
        k: number of neighbours, from 1 to M.
        metric: the distance: a head, whose ``pairwise`` is used, or a function ``metric(x, y)`` that broadcasts leading
            dimensions, such as ``functools.partial(qm.iqe, dim_per_component=8)``.
        backend: of the selection: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says. The
            metric chooses its own.

    Returns:
        A named tuple: ``values`` (..., k), ascending, in the metric's unit and dtype, float32 for half inputs; and
        ``indices`` (..., k), int64. Equal distances keep the order of the bank.

    Gradients flow through the values to x, y and the metric's parameters; for them the k distances are computed again.
    A NaN distance comes after all numbers; an infinite one is ordered like any other.

    Raises:
        ValueError: an empty bank, k outside 1 to M, sizes that do not fit, a metric that returns another shape, or a
            head with a discount, whose values fall with distance.
        TypeError: tensors that are not float or differ in dtype, k that is not an int, or a metric that cannot be
            called.
        RuntimeError: different devices, or a backend that cannot run here.

    Example:
        >>> head = qm.nn.IQE(2, dim_per_component=2, reduction="sum")
        >>> bank = torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
        >>> qm.nearest(torch.zeros(1, 2), bank, 3, metric=head)
        Nearest(values=tensor([[1., 1., 2.]]), indices=tensor([[1, 3, 2]]))
    """
    arguments.check_embeddings("nearest", x, y)
    check(y.shape, k, metric)
    check_size(k, y.shape[0])
    backend = dispatch.requested(backend)
    rows = x.reshape(-1, x.shape[-1])
    with torch.no_grad():
        queries = _TILE_QUERIES.get(x.device.type, 1024)
        parts = [_nearest_of(part, y, k, metric, backend) for part in rows.split(queries)]
    shape = (*x.shape[:-1], k)
    indices = torch.cat([part.indices for part in parts]).reshape(shape)
    values = torch.cat([part.values for part in parts]).reshape(shape)
    parameters = metric.parameters() if isinstance(metric, torch.nn.Module) else ()
    if records_derivative(x, y, *parameters):
        values = metric(x.unsqueeze(-2), y[indices])
    return Nearest(values, indices)


def _nearest_of(x: Tensor, y: Tensor, k: int, metric: Callable, backend: str) -> Nearest:
    """Runs `nearest` for one tile of queries (R, D)."""
    values = in_compute_dtype(x).new_full((x.shape[0], k), torch.inf)
    indices = torch.full((x.shape[0], k), -1, dtype=torch.int64, device=x.device)
    first = 0
    for tile in y.split(_TILE_ROWS.get(x.device.type, 4096)):
        distances = broadcasting.every_pair(metric, x, tile)
        check_distances(distances.shape, x.shape[0], tile.shape[0])
        values, indices = nearest_merge(distances.to(values.dtype), values, indices, first, backend)
        first += tile.shape[0]
    return Nearest(values, indices)

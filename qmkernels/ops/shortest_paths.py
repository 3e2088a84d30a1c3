"""Shortest paths between all nodes of a graph."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import dispatch
from ..definitions import shortest_paths as definition
from ..definitions.dtypes import in_compute_dtype
from . import arguments
from .registration import Kernel
from .torch_internals import has_plain_tensors, records_derivative

_forward = Kernel(
    "shortest_paths",
    "shortest_paths_forward(Tensor lengths, bool with_next, str backend) -> (Tensor, Tensor)",
    definition.shortest_paths_forward_outputs,
)


class ShortestPaths(NamedTuple):
    """Distances along shortest paths and the next node on each, both ``(*b, N, N)``."""

    distances: Tensor
    next: Tensor


def shortest_paths(lengths: Tensor, *, return_next: bool = False, backend: str | None = None) -> Tensor | ShortestPaths:
    r"""Finds the shortest paths between all nodes of a directed graph from the lengths of its single steps.

    .. math:: D^*_{ij} = \min_{i = n_0, n_1, \dots, n_s = j} \sum_{t=1}^{s} D_{n_{t-1} n_t}, \quad D^*_{ii} = 0

    This is the closure of the matrix D under sums and minima: the largest quasimetric that nowhere exceeds D.

    Args:
        lengths: D, ``(*b, N, N)``, from row to column, at least 0, in any unit; infinity where no step leads. The
            diagonal counts as 0. float32, float64, bfloat16 or float16.
        return_next: whether to return the paths too.
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        The distances, ``(*b, N, N)``, in the unit of the lengths, float32 for half inputs; infinity where no path
        leads. With ``return_next`` a named tuple: ``distances``, and ``next`` (*b, N, N), int64: the node after i on
        the path from i to j, i itself for j = i, and -1 where no path leads.

    The gradient of a distance is 1 for each step of its path, one path where several are as short; it needs the steps
    along all paths, about :math:`2 N^2 \log_2 N` numbers, which are only kept where a gradient is wanted. Infinite
    distances have no gradient.

    A NaN, or where it cannot be refused a negative length, makes all distances of its graph NaN and ``next`` -1.
    Time grows with N^3: one addition and one minimum per pair and node.

    Raises:
        ValueError: a last size that differs from the one before; on a CPU, outside torch.compile and torch.func,
            negative lengths. Elsewhere, where checking would wait for the device or is impossible, they give NaN.
        TypeError: lengths that are not a dense float tensor.
        RuntimeError: a backend that cannot run here.

    Source: Floyd 1962, Warshall 1962; by tiles as Venkataraman, Sahni and Mukhopadhyaya 2003. With return_next ties are
    resolved as in the plain closure, node by node, so that next leads to the goal even where lengths are 0.

    Example:
        >>> lengths = torch.tensor([[0.0, 1.0, 5.0], [torch.inf, 0.0, 1.0], [torch.inf, torch.inf, 0.0]])
        >>> qm.shortest_paths(lengths)
        tensor([[0., 1., 2.],
                [inf, 0., 1.],
                [inf, inf, 0.]])
        >>> qm.shortest_paths(lengths, return_next=True).next[0]
        tensor([0, 1, 1])
    """
    arguments.check_float("shortest_paths", "lengths", lengths)
    if lengths.dim() < 2 or lengths.shape[-1] != lengths.shape[-2]:
        raise ValueError(f"shortest_paths: lengths must be (*b, N, N), got {tuple(lengths.shape)}.")
    if lengths.device.type == "cpu" and has_plain_tensors() and (lengths < 0).any():
        raise ValueError(
            f"shortest_paths: lengths must be at least 0, got {lengths.min().item()}; "
            "clamp what rounding made negative, for example lengths.clamp(min=0)."
        )
    graphs = in_compute_dtype(lengths).reshape(math.prod(lengths.shape[:-2]), *lengths.shape[-2:])
    differentiates = records_derivative(graphs)
    with torch.no_grad():
        steps = graphs.detach()
        distances, next_nodes = _forward(steps, return_next or differentiates, dispatch.requested(backend))
    if differentiates:
        distances = definition.along_paths(graphs, distances, next_nodes)
    distances = distances.reshape(lengths.shape)
    return ShortestPaths(distances, next_nodes.reshape(lengths.shape)) if return_next else distances

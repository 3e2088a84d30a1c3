"""Shortest paths between all nodes, in plain PyTorch: Floyd and Warshall's closure, and lengths along paths."""

from __future__ import annotations

import torch
from torch import Tensor


def closure(lengths: Tensor, with_next: bool) -> tuple[Tensor, Tensor | None]:
    """Returns distances (B, N, N) along shortest paths of ``lengths`` (B, N, N), infinity where there is none, and the
    next nodes, -1 where there is none.

    A graph with a length that is not at least 0 is NaN. Going via one node after the other, a way is replaced only by
    a shorter one, so that following the next nodes arrives even where steps have length 0.
    """
    size = lengths.shape[-1]
    nodes = torch.arange(size, device=lengths.device)
    distances = lengths.masked_fill(nodes == nodes.unsqueeze(1), 0)
    next_nodes = nodes.expand(distances.shape) if with_next else None
    for k in range(size):
        via = distances[:, :, k, None] + distances[:, k, None, :]
        if with_next:
            next_nodes = torch.where(via < distances, next_nodes[:, :, k, None], next_nodes)
        distances = torch.minimum(distances, via)
    invalid = ~(lengths >= 0).flatten(1).all(dim=1)[:, None, None]
    distances = distances.masked_fill(invalid, torch.nan)
    return distances, next_nodes.masked_fill(~(distances < torch.inf), -1) if with_next else None


def along_paths(lengths: Tensor, distances: Tensor, next_nodes: Tensor) -> Tensor:
    """Returns the same distances with the derivatives of the sums of the lengths (B, N, N) along the paths.

    Per pair, the first 1, 2, 4, ... steps are added up. A path that does not arrive, because rounding made steps that
    are tiny beside the distance lead around in a circle, has no derivative.
    """
    size = lengths.shape[-1]
    nodes = torch.arange(size, device=lengths.device)
    reached = next_nodes.clamp(min=0)
    sums = lengths.masked_fill(nodes == nodes.unsqueeze(1), 0).gather(-1, reached)
    for _ in range(max(size - 2, 0).bit_length()):
        sums = sums + sums.gather(-2, reached)
        reached = reached.gather(-2, reached)
    arrives = (reached == nodes) & (next_nodes >= 0)
    return torch.where(arrives, sums + (distances - sums).detach(), distances)


def shortest_paths_forward_outputs(lengths: Tensor, with_next: bool) -> tuple[Tensor, Tensor | None]:
    distances = lengths.new_empty(lengths.shape)
    return distances, distances.new_empty(lengths.shape, dtype=torch.int64) if with_next else None

"""Shortest paths on the compiled core, CPU and CUDA. The contract: backends/reference/shortest_paths.py."""

from __future__ import annotations

import torch
from torch import Tensor

from . import core


def shortest_paths_forward(lengths: Tensor, with_next: bool) -> tuple[Tensor, Tensor | None]:
    distances = torch.empty_like(lengths)
    next_nodes = torch.empty_like(lengths) if with_next else None  # numbered in the lengths' dtype
    if lengths.numel():
        core.kernels.shortest_paths_forward(
            lengths=lengths, distances=distances, next=next_nodes, batch=lengths.shape[0], size=lengths.shape[-1]
        )
    return distances, None if next_nodes is None else next_nodes.to(torch.int64)

"""Nearest neighbours on the compiled core, CPU and CUDA. The contract: backends/reference/nearest.py."""

from __future__ import annotations

from torch import Tensor

from . import core


def nearest_merge(distances: Tensor, values: Tensor, indices: Tensor, first: int) -> tuple[Tensor, Tensor]:
    values, indices = values.clone(), indices.clone()
    if distances.numel():
        rows, columns = distances.shape
        core.kernels.nearest_merge(
            distances=distances, values=values, indices=indices, rows=rows, columns=columns, k=values.shape[1],
            first=first,
        )  # fmt: skip
    return values, indices

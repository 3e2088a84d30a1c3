"""Rows of other processes under autograd, for losses over a global batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group):
        ctx.group, ctx.count = group, rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor):
        # All processes used these rows: their gradients are added up, and each keeps the part of its own.
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        begin = dist.get_rank(ctx.group) * ctx.count
        return grad[begin : begin + ctx.count], None


def gather_rows(rows: Tensor, *, dim: int = 0, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all processes, in the order of their ranks, on every process; differentiable.

    Args:
        rows: this process's, of the same shape on every process.
        dim: which dimension the rows are in; -2 for embeddings ``(..., N, D)``.
        group: of processes; None: all. Without an initialised `torch.distributed`, or in a group of one, the rows
            come back as they are.

    Returns:
        ``world_size`` times as many rows. The gradient of each row is the sum of what all processes made of it, so
        with DDP, which averages gradients over processes, a loss that each process computes as the mean over its own
        rows has the gradient of the mean over all.

    Example:
        >>> torch.equal(qm.distributed.gather_rows(torch.ones(3, 4), dim=-2), torch.ones(3, 4))
        True
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return rows
    return _GatherRows.apply(rows.movedim(dim, 0), group).movedim(0, dim)

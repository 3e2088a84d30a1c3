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
        # All processes used these rows: sum their gradients, and keep the part of this process's own rows.
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        begin = dist.get_rank(ctx.group) * ctx.count
        return grad[begin : begin + ctx.count], None


def gather_rows(rows: Tensor, *, dim: int = 0, group: dist.ProcessGroup | None = None) -> Tensor:
    """Gathers the rows of all processes, in rank order, on every process; differentiable.

    Args:
        rows: this process's rows, of the same shape, dtype and kind of device on every process.
        dim: the dimension of the rows; -2 for embeddings ``(..., N, D)``.
        group: the processes; None: all. Without an initialised `torch.distributed`, or in a group of one, the rows are
            returned unchanged.

    Returns:
        ``world_size`` times as many rows along ``dim``, in the same dtype; NaN and infinities pass unchanged.

    The gradient of a row is the sum of its gradients on all processes. DDP averages gradients over processes, so a loss
    that each process computes as the mean over its own rows gets the gradient of the mean over all rows.

    Errors are those of `torch.distributed`; there are no others.

    Example:
        >>> torch.equal(qm.distributed.gather_rows(torch.ones(3, 4), dim=-2), torch.ones(3, 4))
        True
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return rows
    return _GatherRows.apply(rows.movedim(dim, 0), group).movedim(0, dim)

"""Losses over a global batch whose goals stay on their processes: they travel around a ring, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from .. import distributed
from . import checks


def agree(
    loss: str, head: checks.Head, check: Callable[[], None], states: Tensor, goals: Tensor,
    group: dist.ProcessGroup | None,
) -> dist.ProcessGroup:  # fmt: skip
    """Runs ``check`` on all processes; an error on one, or shards that differ, is an error on all. Returns the group,
    which by default is that of all."""
    said: dict = {}

    def check_own() -> None:
        if not isinstance(head, torch.nn.Module):
            raise TypeError(f"{loss}: with ring head must be a module, got {type(head).__name__}.")
        check()
        if states.shape != goals.shape:
            raise ValueError(
                f"{loss}: with ring each process must give its own states and goals, as many of both, got "
                f"{tuple(states.shape)} and {tuple(goals.shape)}."
            )
        said.update(shape=tuple(goals.shape), dtype=goals.dtype)

    distributed.check_member(loss, group)
    every = distributed.together(check_own, said, group)
    for name, kind in (("shape", ValueError), ("dtype", TypeError)):
        for rank, other in enumerate(every):
            if other[name] != every[0][name]:
                raise kind(
                    f"{loss}: with ring the {name} of the goals must be the same on all ranks, got {every[0][name]} on "
                    f"rank 0 and {other[name]} on rank {rank}."
                )
    return dist.group.WORLD if group is None else group


def around(
    block: Callable[..., Sequence[Tensor]], head: torch.nn.Module, goals: Tensor, others: tuple[Tensor, ...],
    group: dist.ProcessGroup,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Calls ``block(first, goals, *others)`` with the goals of every process, of which the first is number ``first`` of
    all, and returns its results, stacked by rank.

    Goals pass from each process to the next. Backward sends them back the same way, with their gradients, and computes
    each block again: a process holds two shards of goals, and of gradients, at a time. Gradients flow to all tensors
    and to the head's parameters.
    """
    parameters = tuple(parameter for parameter in head.parameters() if parameter.requires_grad)
    return _Ring.apply(block, parameters, group, goals, *others, *parameters)


def side_by_side(parts: Tensor) -> Tensor:
    """Returns the results for goals, stacked by rank (W, ..., N), as one for all goals, (..., W N)."""
    return parts.movedim(0, -2).flatten(-2)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, block, parameters, group, goals, *tensors):
        others = tensors[: len(tensors) - len(parameters)]
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        results = [()] * size
        for step in range(size):
            if step:
                (goals,) = _passed((goals,), 1, group)
            shard = (rank - step) % size
            results[shard] = block(shard * goals.shape[-2], goals, *others)
        device = goals.device.type
        ctx.call = block, parameters, group
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(goals, *others)
        return tuple(map(torch.stack, zip(*results, strict=True)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        block, parameters, group = ctx.call
        goals, *others = ctx.saved_tensors
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        grad_goals, totals = torch.zeros_like(goals), [torch.zeros_like(each) for each in (*others, *parameters)]
        for step in reversed(range(size)):
            shard = (rank - step) % size
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                leaves = [tensor.detach().requires_grad_() for tensor in (goals, *others)]
                outputs = block(shard * goals.shape[-2], *leaves)
            places = [i for i, out in enumerate(outputs) if out.requires_grad]
            of_goals, *of_others = torch.autograd.grad(
                [outputs[i] for i in places], (*leaves, *parameters), [grads[i][shard] for i in places],
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            grad_goals += of_goals
            for total, grad in zip(totals, of_others, strict=True):
                total += grad
            if step:
                goals, grad_goals = _passed((goals, grad_goals), -1, group)
        return None, None, None, grad_goals, *totals


def _passed(tensors: tuple[Tensor, ...], ranks: int, group: dist.ProcessGroup) -> list[Tensor]:
    """Sends tensors ``ranks`` further around the ring, and returns those that come from as far behind."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    to, source = (dist.get_global_rank(group, (rank + step) % size) for step in (ranks, -ranks))
    sent = [tensor.contiguous() for tensor in tensors]
    received = [torch.empty_like(tensor) for tensor in sent]
    operations = [dist.P2POp(dist.isend, tensor, to, group) for tensor in sent]
    operations += [dist.P2POp(dist.irecv, tensor, source, group) for tensor in received]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received

"""Optimizer steps of one process or of several that train together, of `torch.distributed`.

Agents have several losses over shared networks and several optimizers, which DDP's one forward and backward pass does
not hold: the networks of the first process are sent to all, and gradients are averaged before a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Group = torch.distributed.ProcessGroup


def adamw(module: nn.Module, rate: float, *apart: tuple[list[nn.Parameter], float]) -> torch.optim.AdamW:
    """Of a module's parameters, without weight decay; those in ``apart`` have learning rates of their own."""
    others = {id(each) for parameters, _ in apart for each in parameters}
    groups = [([each for each in module.parameters() if id(each) not in others], rate), *apart]
    # One pass over parameters, gradients and moments, where torch has that.
    fused = groups[0][0][0].device.type in ("cpu", "cuda")
    each = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    return torch.optim.AdamW(each, weight_decay=0.0, fused=fused)


def step(
    optimizer: torch.optim.Optimizer, loss: Tensor, group: Group | None = None, *, largest_norm: float | None = None
) -> None:
    """Backward and one step, with the mean of the gradients of a group's processes, scaled down to the largest norm."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if group is not None:
        grads = [p.grad for each in optimizer.param_groups for p in each["params"] if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat, group=group)
        flat /= torch.distributed.get_world_size(group)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))
    if largest_norm is not None:
        nn.utils.clip_grad_norm_([p for each in optimizer.param_groups for p in each["params"]], largest_norm)
    optimizer.step()


def send(group: Group | None, *modules: nn.Module) -> None:
    """Gives a group's processes what the first of them has."""
    if group is None:
        return
    for module in modules:
        for value in module.state_dict().values():
            torch.distributed.broadcast(value, torch.distributed.get_global_rank(group, 0), group=group)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """The module's parameters need no gradients within the block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

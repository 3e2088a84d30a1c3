"""Optimizer steps in one process, or in several `torch.distributed` processes that train together.

Agents have several losses over shared networks and several optimizers, which does not fit DDP's single forward and
backward pass. So the first process sends its networks to all, and gradients are averaged before each step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Group = torch.distributed.ProcessGroup


def adamw(module: nn.Module, rate: float, *apart: tuple[list[nn.Parameter], float]) -> torch.optim.AdamW:
    """Returns AdamW over a module's parameters, without weight decay; those in ``apart`` have their own rates."""
    others = {id(parameter) for parameters, _ in apart for parameter in parameters}
    remaining = [parameter for parameter in module.parameters() if id(parameter) not in others]
    groups = [(remaining, rate), *apart]
    # One pass over parameters, gradients and moments, where torch offers it; on a GPU a CUDA graph may capture it.
    device = groups[0][0][0].device.type
    settings = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    return torch.optim.AdamW(settings, weight_decay=0.0, fused=device in ("cpu", "cuda"), capturable=device == "cuda")


def step(
    optimizer: torch.optim.Optimizer, loss: Tensor, group: Group | None = None, *, largest_norm: float | None = None
) -> None:
    """Runs backward and one step; gradients are averaged over the group and clipped to ``largest_norm``."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if group is not None:
        grads = [p.grad for settings in optimizer.param_groups for p in settings["params"] if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat, group=group)
        flat /= torch.distributed.get_world_size(group)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))
    if largest_norm is not None:
        nn.utils.clip_grad_norm_([p for settings in optimizer.param_groups for p in settings["params"]], largest_norm)
    optimizer.step()


def send(group: Group | None, *modules: nn.Module) -> None:
    """Sends the first process's modules to the whole group."""
    if group is None:
        return
    for module in modules:
        for value in module.state_dict().values():
            torch.distributed.broadcast(value, torch.distributed.get_global_rank(group, 0), group=group)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Turns off gradients of the module's parameters within the block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

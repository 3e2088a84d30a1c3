"""Target networks: copies that slowly follow the trained ones."""

from __future__ import annotations

import copy

import torch
from torch import nn


def target_of(module: nn.Module) -> nn.Module:
    """Returns a copy that needs no gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, tau: float) -> None:
    """Sets the target's parameters to (1 - tau) target + tau module, and copies the buffers."""
    torch._foreach_lerp_(list(target.parameters()), list(module.parameters()), tau)
    for mine, theirs in zip(target.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)

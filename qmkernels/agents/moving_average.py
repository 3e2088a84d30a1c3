"""Target networks: copies that follow the trained ones slowly."""

from __future__ import annotations

import copy

import torch
from torch import nn


def target_of(module: nn.Module) -> nn.Module:
    """A copy that needs no gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau module, of parameters; buffers are copied."""
    torch._foreach_lerp_(list(target.parameters()), list(module.parameters()), tau)
    for mine, theirs in zip(target.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)

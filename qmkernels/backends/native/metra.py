"""METRA's loss on the compiled core, CPU and CUDA. The contract: backends/reference/metra.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.metra import NORMS
from . import core


def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, slack: float, norm: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, stats, reward = phi.new_empty(()), phi.new_empty(3), phi.new_empty(phi.shape[:-1])
    slopes = torch.empty_like(reward)
    rows = reward.numel()
    scratch = core.scratch(3 * rows * 8, phi.device)
    core.launch(
        "metra_forward", phi.device, phi.element_size(),
        phi, phi_next, skill, log_multiplier, loss, reward, stats, slopes, scratch,
        rows, phi.shape[-1], slack, NORMS.index(norm),
    )  # fmt: skip
    return loss, reward, stats, slopes


def metra_backward(
    grad_loss: Tensor,
    phi: Tensor,
    phi_next: Tensor,
    skill: Tensor,
    stats: Tensor,
    slopes: Tensor,
    needs_skill: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_phi, grad_next = torch.empty_like(phi), torch.empty_like(phi)
    grad_skill = torch.empty_like(phi) if needs_skill else phi.new_empty(0)
    grad_log_multiplier = torch.empty_like(grad_loss)
    core.launch(
        "metra_backward", phi.device, phi.element_size(),
        grad_loss, phi, phi_next, skill, stats, slopes, grad_phi, grad_next, grad_skill, grad_log_multiplier,
        slopes.numel(), phi.shape[-1],
    )  # fmt: skip
    return grad_phi, grad_next, grad_skill, grad_log_multiplier

"""METRA's loss on the compiled core, CPU and CUDA. The contract: backends/reference/metra.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.metra import MetraSettings
from . import core


def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, stats, reward = phi.new_empty(()), phi.new_empty(3), phi.new_empty(phi.shape[:-1])
    slopes = torch.empty_like(reward)
    core.kernels.metra_forward(
        phi=phi, phi_next=phi_next, skill=skill, log_multiplier=log_multiplier,
        loss=loss, reward=reward, stats=stats, slopes=slopes,
        rows=reward.numel(), dim=phi.shape[-1], settings=MetraSettings(*settings),
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
    grad_phi, grad_phi_next = torch.empty_like(phi), torch.empty_like(phi)
    grad_skill = torch.empty_like(phi) if needs_skill else phi.new_empty(0)
    grad_log_multiplier = torch.empty_like(grad_loss)
    core.kernels.metra_backward(
        grad_loss=grad_loss, phi=phi, phi_next=phi_next, skill=skill, stats=stats, slopes=slopes,
        grad_phi=grad_phi, grad_phi_next=grad_phi_next, grad_skill=grad_skill, grad_log_multiplier=grad_log_multiplier,
        rows=slopes.numel(), dim=phi.shape[-1],
    )  # fmt: skip
    return grad_phi, grad_phi_next, grad_skill, grad_log_multiplier

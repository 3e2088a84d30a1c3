"""METRA's loss on the compiled core, CPU and CUDA. The contract: backends/reference/metra.py."""

from __future__ import annotations

from torch import Tensor

from ...arguments.metra import MetraSettings
from ...definitions import metra as definition
from . import core


@core.replayable
def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, reward, stats, slopes = definition.metra_forward_outputs(phi, phi_next, skill, log_multiplier, *settings)
    core.kernels.metra_forward(
        phi=phi, phi_next=phi_next, skill=skill, log_multiplier=log_multiplier,
        loss=loss, reward=reward, stats=stats, slopes=slopes,
        rows=reward.numel(), dim=phi.shape[-1], settings=MetraSettings(*settings),
    )  # fmt: skip
    return loss, reward, stats, slopes


@core.replayable
def metra_backward(
    grad_loss: Tensor,
    phi: Tensor,
    phi_next: Tensor,
    skill: Tensor,
    stats: Tensor,
    slopes: Tensor,
    needs_skill: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_phi, grad_phi_next, grad_skill, grad_log_multiplier = definition.metra_backward_outputs(
        grad_loss, phi, phi_next, skill, stats, slopes, needs_skill
    )
    core.kernels.metra_backward(
        grad_loss=grad_loss, phi=phi, phi_next=phi_next, skill=skill, stats=stats, slopes=slopes,
        grad_phi=grad_phi, grad_phi_next=grad_phi_next, grad_skill=grad_skill, grad_log_multiplier=grad_log_multiplier,
        rows=slopes.numel(), dim=phi.shape[-1],
    )  # fmt: skip
    return grad_phi, grad_phi_next, grad_skill, grad_log_multiplier

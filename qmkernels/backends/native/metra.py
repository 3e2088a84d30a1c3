"""METRA's loss on the compiled core, CPU and CUDA. The contract: backends/reference/metra.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import metra as definition
from ...definitions.metra import NORMS
from . import core


def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, slack: float, norm: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, reward, stats, slopes = definition.metra_forward_outputs(phi, phi_next, skill, log_multiplier, slack, norm)
    rows = reward.numel()
    scratch = core.scratch(3 * rows * phi.element_size(), phi.device)
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
    grad_phi, grad_next, grad_skill, grad_log_multiplier = definition.metra_backward_outputs(
        grad_loss, phi, phi_next, skill, stats, slopes, needs_skill
    )
    core.launch(
        "metra_backward", phi.device, phi.element_size(),
        grad_loss, phi, phi_next, skill, stats, slopes, grad_phi, grad_next, grad_skill, grad_log_multiplier,
        slopes.numel(), phi.shape[-1],
    )  # fmt: skip
    return grad_phi, grad_next, grad_skill, grad_log_multiplier

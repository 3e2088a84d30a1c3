"""METRA's loss on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. phi, phi_next and skill are (..., D), of one shape and
not empty, also in half precision, as for IQE; ``log_multiplier`` is 0-d; ``slack, norm`` are the fields of
``definitions.metra.MetraSettings``.

``loss``    0-d.
``reward``  (...): (phi_next - phi) . skill per row.
``stats``   (3,): mean constraint, multiplier, mean squared distance.
``slopes``  (...): apart from the reward, the derivative of the loss by a row's step phi_next - phi is slope * step. The
            slope is 2 multiplier / rows, divided by D for the mean of squares; 0 where the constraint is clipped to the
            slack, or NaN. As in ``torch.clamp``, the gradient passes where 1 - squared distance equals the slack.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import metra as definition


def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, slack: float, norm: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ``loss, reward, stats, slopes``."""
    step = phi_next - phi
    squared = definition.squared_distance(step, norm)
    reward, constraint, multiplier = definition.terms(step, skill, squared, log_multiplier, slack)
    slope = 2 * multiplier / (squared.numel() * (1 if norm == "sum" else phi.shape[-1]))
    slopes = torch.where(1 - squared <= slack, slope, 0)
    loss = definition.loss_of(reward, constraint, multiplier, log_multiplier)
    return loss, reward, torch.stack([constraint, multiplier, squared.mean()]), slopes


def metra_backward(
    grad_loss: Tensor,
    phi: Tensor,
    phi_next: Tensor,
    skill: Tensor,
    stats: Tensor,
    slopes: Tensor,
    needs_skill: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ``grad_phi, grad_phi_next, grad_skill`` (..., D), the third None if not needed, and
    ``grad_log_multiplier``, 0-d."""
    step, share = phi_next - phi, grad_loss / slopes.numel()
    grad_next = (grad_loss * slopes).unsqueeze(-1) * step - share * skill
    grad_skill = -share * step if needs_skill else None
    return -grad_next, grad_next, grad_skill, grad_loss * stats[0]

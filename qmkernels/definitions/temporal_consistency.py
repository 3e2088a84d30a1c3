"""iQRL's temporal consistency, in plain PyTorch: the definition of the op ``temporal_consistency``.

Scannell et al. 2024, "iQRL - Implicitly Quantized Representations for Sample-Efficient Reinforcement Learning" (arXiv
2406.02696), equation 5; losses/temporal_consistency.py has the formula.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .shapes import empty

# Norms below this count as this, as in torch's cosine.
EPS = 1e-8


def cosines(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the cosine per row, (H, B)."""
    return functional.cosine_similarity(predicted, target, dim=-1, eps=EPS)


def step_weights(discount: float, like: Tensor) -> Tensor:
    """Returns discount^h for the steps of ``like``, (H,)."""
    return discount ** torch.arange(like.shape[0], dtype=like.dtype, device=like.device)


def loss_of(cosine: Tensor, mask: Tensor | None, discount: float) -> Tensor:
    losses = 1 - cosine
    if mask is not None:
        losses = losses * mask
    return (step_weights(discount, losses) * losses.mean(dim=-1)).sum()


def slopes(predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float) -> Tensor:
    """Returns (2, H, B): the loss's gradient by a row of predicted is the first times target plus the second times it.

    A norm below EPS counts as EPS in the cosine but keeps its derivative, as in torch; at 0 that is 0.
    """
    norm = torch.linalg.vector_norm(predicted, dim=-1)
    length, target_length = norm.clamp(min=EPS), torch.linalg.vector_norm(target, dim=-1).clamp(min=EPS)
    weight = (step_weights(discount, norm) / norm.shape[1])[:, None].expand_as(norm)
    if mask is not None:
        weight = weight * mask
    by_predicted = weight * cosines(predicted, target) / (length * norm)
    return torch.stack([-weight / (length * target_length), by_predicted.masked_fill(norm == 0, 0)])


def gradient(grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    by_target, by_predicted = (grad_loss * slopes).unsqueeze(-1)
    return by_target * target + by_predicted * predicted


def temporal_consistency_forward_outputs(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch, _ = predicted.shape
    return empty(predicted), empty(predicted, steps), empty(predicted, 2, steps, batch)


def temporal_consistency_backward_outputs(
    grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor
) -> Tensor:
    return torch.empty_like(predicted)

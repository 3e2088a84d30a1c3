"""QRL's latent dynamics loss with an IQE head, in plain PyTorch: the definition of the op ``latent_dynamics``.

Wang et al. 2023 (arXiv 2304.01203), equation 12. The distances are those of definitions/iqe.py;
losses/latent_dynamics.py has the formula of the loss.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..arguments.latent_dynamics import LatentDynamicsSettings
from .iqe import iqe, kept_of_reduction, weights_of_rows
from .shapes import empty

# Loss, statistics, slopes, ends, largest and spread, as in backends/reference/latent_dynamics.py.
Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def distances(predicted: Tensor, target: Tensor, max_weight: Tensor | None, settings: LatentDynamicsSettings) -> Tensor:
    """Returns the distances from predicted to target and back, (2, B)."""
    both = torch.stack([predicted, target]), torch.stack([target, predicted])
    weight = weights_of_rows(max_weight, settings.weight_link, predicted.shape[:1])
    return iqe(*both, settings.dim_per_component, reduction=settings.reduction, max_weight=weight)


def loss_of(both: Tensor, power: int) -> Tensor:
    """Returns half the sum of the two directions' means, which is the mean over both."""
    return both.square().mean() if power == 2 else both.mean()


def forward_with(
    head: ModuleType, predicted: Tensor, target: Tensor, max_weight: Tensor | None, settings: LatentDynamicsSettings
) -> Kept:
    """Returns the kernels' results on a backend without kernels for this op, from its IQE functions, ``head``."""
    both = torch.stack([predicted, target]), torch.stack([target, predicted])
    distances, ends, largest, spread = head.iqe_forward(*both, max_weight, *settings[:3], True)
    slopes = (distances if settings.power == 2 else torch.full_like(distances, 0.5)) / predicted.shape[0]
    return loss_of(distances, settings.power), distances.mean(dim=1), slopes, ends, largest, spread


def backward_with(
    head: ModuleType, grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, like: Tensor, *settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad_from, grad_to, grad_weight = head.iqe_backward(
        grad_loss * slopes, ends, largest, spread, max_weight, *settings, max_weight is not None
    )
    return grad_from[0] + grad_to[1], grad_to[0] + grad_from[1], grad_weight


def latent_dynamics_forward_outputs(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dim_per_component, reduction, *_ = settings
    rows, size = predicted.shape
    slopes = empty(predicted, 2, rows)
    ends = predicted.new_empty(2, rows, size // dim_per_component, (2 * dim_per_component + 7) // 8, dtype=torch.uint8)
    return empty(predicted), empty(predicted, 2), slopes, ends, *kept_of_reduction(slopes, reduction)


def latent_dynamics_backward_outputs(
    grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor, max_weight: Tensor | None,
    like: Tensor, dim_per_component: int, reduction: str, weight_link: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad_predicted = like.new_empty(slopes.shape[1], ends.shape[2] * dim_per_component)
    grad_max_weight = None if max_weight is None else torch.empty_like(max_weight)
    return grad_predicted, torch.empty_like(grad_predicted), grad_max_weight

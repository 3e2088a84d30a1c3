"""QRL's latent dynamics with an IQE head on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. ``*settings`` are the fields of
``definitions.latent_dynamics.LatentDynamicsSettings`` in their order. ``predicted`` and ``target`` are (B, D).
``max_weight`` is 0-d, as for IQE, None unless the reduction is maxmean. A tensor that is not needed is returned empty,
of shape (0,). In what is kept, pair 0 is from predicted to target and pair 1 is back.

``loss``     0-d.
``stats``    (2,): the mean distances.
``slopes``   (2, B): the derivative of the loss by each distance.
``ends``     uint8 (2, B, C, ceil(2K / 8)), ``largest`` int32 (2, B) and ``spread`` (2, B): as for IQE.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...definitions.latent_dynamics import LatentDynamicsSettings, loss_of
from . import iqe

Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def latent_dynamics_forward(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> Kept:
    """``loss, stats, slopes, ends, largest, spread``."""
    return forward_with(iqe, predicted, target, max_weight, LatentDynamicsSettings(*settings))


def latent_dynamics_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    *settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """``grad_predicted`` and ``grad_target`` (B, D) and ``grad_max_weight``, 0-d, empty without one."""
    return backward_with(iqe, grad_loss, slopes, ends, largest, spread, max_weight, *settings)


def forward_with(
    head: ModuleType, predicted: Tensor, target: Tensor, max_weight: Tensor | None, settings: LatentDynamicsSettings
) -> Kept:
    """The pass on a backend that has IQE, ``head``, but no kernel of its own for this."""
    both = torch.stack([predicted, target]), torch.stack([target, predicted])
    distances, ends, largest, spread = head.iqe_forward(*both, max_weight, *settings[:3], True)
    slopes = (distances if settings.power == 2 else torch.full_like(distances, 0.5)) / predicted.shape[0]
    return loss_of(distances, settings.power), distances.mean(dim=1), slopes, ends, largest, spread


def backward_with(
    head: ModuleType, grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor,
    max_weight: Tensor | None, *settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of_from, of_to, of_weight = head.iqe_backward(
        grad_loss * slopes, ends, largest, spread, max_weight, *settings, max_weight is not None
    )
    return of_from[0] + of_to[1], of_to[0] + of_from[1], of_weight

"""QRL's latent dynamics with an IQE head on Triton: its IQE kernels, and torch for what is one number a row."""

from __future__ import annotations

from torch import Tensor

from ...definitions.latent_dynamics import LatentDynamicsSettings
from ..reference.latent_dynamics import backward_with, forward_with
from . import iqe


def latent_dynamics_forward(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return forward_with(iqe, predicted, target, max_weight, LatentDynamicsSettings(*settings))


def latent_dynamics_backward(grad_loss: Tensor, *kept) -> tuple[Tensor, Tensor, Tensor]:
    return backward_with(iqe, grad_loss, *kept)

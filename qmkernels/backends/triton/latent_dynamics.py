"""QRL's latent dynamics loss with an IQE head on Triton: IQE's kernels, and torch for the numbers per row."""

from __future__ import annotations

from torch import Tensor

from ...definitions import latent_dynamics as definition
from ...definitions.latent_dynamics import Kept, LatentDynamicsSettings
from . import iqe


def latent_dynamics_forward(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> Kept:
    return definition.forward_with(iqe, predicted, target, max_weight, LatentDynamicsSettings(*settings))


def latent_dynamics_backward(grad_loss: Tensor, *kept) -> tuple[Tensor, Tensor, Tensor]:
    return definition.backward_with(iqe, grad_loss, *kept)

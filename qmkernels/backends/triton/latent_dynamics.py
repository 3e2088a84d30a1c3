"""QRL's latent dynamics with an IQE head on Triton: its IQE kernels, and torch for what is one number a row."""

from __future__ import annotations

from torch import Tensor

from ...reference.latent_dynamics import LatentDynamicsForm
from ..reference.latent_dynamics import backward_with, forward_with
from . import iqe


def latent_dynamics_forward(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *form
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return forward_with(iqe, predicted, target, max_weight, LatentDynamicsForm(*form))


def latent_dynamics_backward(grad_loss: Tensor, *kept) -> tuple[Tensor, Tensor, Tensor]:
    return backward_with(iqe, grad_loss, *kept)

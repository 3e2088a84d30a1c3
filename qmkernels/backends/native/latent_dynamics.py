"""QRL's latent dynamics with an IQE head on the compiled core, CPU and CUDA. The contract:
backends/reference/latent_dynamics.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import latent_dynamics as definition
from ...definitions.iqe import REDUCTIONS
from ...definitions.latent_dynamics import LatentDynamicsSettings
from . import core


def latent_dynamics_forward(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = LatentDynamicsSettings(*settings)
    rows, size = predicted.shape[0], settings.dim_per_component
    num_components = predicted.shape[1] // size
    loss, stats, slopes, ends, largest, spread = definition.latent_dynamics_forward_outputs(
        predicted, target, max_weight, *settings
    )
    scratch = core.scratch(2 * rows * predicted.element_size(), predicted.device)
    core.launch(
        "latent_dynamics_forward", predicted.device, predicted.element_size(),
        predicted, target, max_weight, loss, stats, slopes, ends, largest, spread, scratch,
        rows, num_components, size, REDUCTIONS.index(settings.reduction), settings.power,
    )  # fmt: skip
    return loss, stats, slopes, ends, largest, spread


def latent_dynamics_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = slopes.shape[1], ends.shape[2]
    grad_predicted, grad_target, grad_max_weight = definition.latent_dynamics_backward_outputs(
        grad_loss, slopes, ends, largest, spread, max_weight, dim_per_component, reduction
    )
    core.launch(
        "latent_dynamics_backward", slopes.device, slopes.element_size(),
        grad_loss, slopes, ends, largest, spread, max_weight, grad_predicted, grad_target, grad_max_weight,
        rows, num_components, dim_per_component, REDUCTIONS.index(reduction),
    )  # fmt: skip
    return grad_predicted, grad_target, grad_max_weight

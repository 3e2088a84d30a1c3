"""QRL's latent dynamics with an IQE head on the compiled core, CPU and CUDA. The contract:
backends/reference/latent_dynamics.py."""

from __future__ import annotations

from torch import Tensor

from ...arguments.latent_dynamics import LatentDynamicsSettings
from ...definitions import latent_dynamics as definition
from . import core


@core.replayable
def latent_dynamics_forward(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, stats, slopes, ends, largest, spread = definition.latent_dynamics_forward_outputs(
        predicted, target, max_weight, *settings
    )
    settings = LatentDynamicsSettings(*settings)
    rows, dim = predicted.shape
    core.kernels.latent_dynamics_forward(
        predicted=predicted, target=target, max_weight=max_weight,
        loss=loss, stats=stats, slopes=slopes, ends=ends, largest=largest, spread=spread,
        rows=rows, num_components=dim // settings.dim_per_component, settings=settings,
    )  # fmt: skip
    return loss, stats, slopes, ends, largest, spread


@core.replayable
def latent_dynamics_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = slopes.shape[1], ends.shape[2]
    grad_predicted, grad_target, grad_max_weight = definition.latent_dynamics_backward_outputs(
        grad_loss, slopes, ends, largest, spread, max_weight, like, dim_per_component, reduction, weight_link
    )
    core.kernels.latent_dynamics_backward(
        grad_loss=grad_loss, slopes=slopes, ends=ends, largest=largest, spread=spread, max_weight=max_weight,
        grad_predicted=grad_predicted, grad_target=grad_target, grad_max_weight=grad_max_weight,
        rows=rows, num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
        weight_link=weight_link,
    )  # fmt: skip
    return grad_predicted, grad_target, grad_max_weight

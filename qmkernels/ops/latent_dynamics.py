"""QRL's latent dynamics with an IQE head as one op: embeddings to loss, and back. `losses.latent_dynamics` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..definitions import latent_dynamics as definition
from ..definitions.latent_dynamics import LatentDynamicsSettings
from .kernel_function import on_backend
from .loss_function import loss_function
from .registration import register


def _fake_forward(predicted, target, max_weight, dim_per_component, reduction, power, backend):
    rows, num_components = predicted.shape[0], predicted.shape[1] // dim_per_component
    return (
        predicted.new_empty(()),
        predicted.new_empty(2),
        predicted.new_empty(2, rows),
        predicted.new_empty((2, rows, num_components, (2 * dim_per_component + 7) // 8), dtype=torch.uint8),
        predicted.new_empty((2, rows) if reduction in ("max", "maxmean") else 0, dtype=torch.int32),
        predicted.new_empty((2, rows) if reduction == "maxmean" else 0),
    )


def _fake_backward(grad_loss, slopes, ends, largest, spread, max_weight, dim_per_component, reduction, backend):
    shape = (slopes.shape[1], ends.shape[2] * dim_per_component)
    return slopes.new_empty(shape), slopes.new_empty(shape), slopes.new_empty(0 if max_weight is None else ())


latent_dynamics_forward = register(
    "latent_dynamics_forward(Tensor predicted, Tensor target, Tensor? max_weight, int dim_per_component,"
    " str reduction, int power, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    on_backend("latent_dynamics", "latent_dynamics_forward"),
    _fake_forward,
)
latent_dynamics_backward = register(
    "latent_dynamics_backward(Tensor grad_loss, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
    " Tensor? max_weight, int dim_per_component, str reduction, str backend) -> (Tensor, Tensor, Tensor)",
    on_backend("latent_dynamics", "latent_dynamics_backward"),
    _fake_backward,
)


def composed(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    settings = LatentDynamicsSettings(*settings)
    return definition.loss_of(definition.distances(predicted, target, max_weight, settings), settings.power)


def _gradients(grad_loss, tensors, kept, settings, needs):
    size, reduction, _, backend = settings
    return latent_dynamics_backward(grad_loss, *kept, tensors[2], size, reduction, backend)


_latent_dynamics = loss_function(
    "LatentDynamics", latent_dynamics_forward, _gradients, composed, num_tensors=3, kept_from=2
)


def latent_dynamics(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, settings: LatentDynamicsSettings, backend: str
) -> tuple[Tensor, Tensor]:
    """Loss and stats (backends/reference/latent_dynamics.py) of checked arguments in the dtype of computation."""
    loss, stats, *_ = _latent_dynamics(predicted, target, max_weight, *settings, backend)
    return loss, stats

"""QRL's latent dynamics with an IQE head on the compiled core, CPU and CUDA. The contract:
backends/reference/latent_dynamics.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions.latent_dynamics import LatentDynamicsSettings
from . import core

_WITH_LARGEST = ("max", "maxmean")


def latent_dynamics_forward(
    predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = LatentDynamicsSettings(*settings)
    rows, size = predicted.shape[0], settings.dim_per_component
    num_components = predicted.shape[1] // size
    loss, stats, slopes = predicted.new_empty(()), predicted.new_empty(2), predicted.new_empty(2, rows)
    ends = predicted.new_empty((2, rows, num_components, (2 * size + 7) // 8), dtype=torch.uint8)
    largest = predicted.new_empty((2, rows) if settings.reduction in _WITH_LARGEST else 0, dtype=torch.int32)
    spread = predicted.new_empty((2, rows) if settings.reduction == "maxmean" else 0)
    core.kernels.latent_dynamics_forward(
        predicted=predicted, target=target, max_weight=max_weight,
        loss=loss, stats=stats, slopes=slopes, ends=ends, largest=largest, spread=spread,
        rows=rows, num_components=num_components, settings=settings,
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
    grad_predicted = slopes.new_empty(rows, num_components * dim_per_component)
    grad_target = torch.empty_like(grad_predicted)
    grad_max_weight = slopes.new_empty(0 if max_weight is None else ())
    core.kernels.latent_dynamics_backward(
        grad_loss=grad_loss, slopes=slopes, ends=ends, largest=largest, spread=spread, max_weight=max_weight,
        grad_predicted=grad_predicted, grad_target=grad_target, grad_max_weight=grad_max_weight,
        rows=rows, num_components=num_components, dim_per_component=dim_per_component, reduction=reduction,
    )  # fmt: skip
    return grad_predicted, grad_target, grad_max_weight

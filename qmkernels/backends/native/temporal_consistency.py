"""iQRL's temporal consistency on the compiled core. The contract: backends/reference/temporal_consistency.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import temporal_consistency as definition
from . import core


@core.replayable
def temporal_consistency_forward(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch, dim = predicted.shape
    loss, similarity, slopes = definition.temporal_consistency_forward_outputs(predicted, target, mask, discount)
    core.kernels.temporal_consistency_forward(
        predicted=predicted, target=target, mask=mask, loss=loss, similarity=similarity, slopes=slopes,
        steps=steps, batch=batch, dim=dim, discount=discount,
    )  # fmt: skip
    return loss, similarity, slopes


@core.replayable
def temporal_consistency_backward(grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    grad_predicted = definition.temporal_consistency_backward_outputs(grad_loss, slopes, predicted, target)
    core.kernels.temporal_consistency_backward(
        grad_loss=grad_loss, slopes=slopes, predicted=predicted, target=target, grad_predicted=grad_predicted,
        rows=slopes.numel() // 2, dim=predicted.shape[-1],
    )  # fmt: skip
    return grad_predicted

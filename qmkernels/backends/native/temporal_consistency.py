"""iQRL's temporal consistency on the compiled core. The contract: backends/reference/temporal_consistency.py."""

from __future__ import annotations

from torch import Tensor

from ...definitions import temporal_consistency as definition
from . import core


def temporal_consistency_forward(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch, size = predicted.shape
    loss, similarity, slopes = definition.temporal_consistency_forward_outputs(predicted, target, mask, discount)
    scratch = core.scratch(steps * (batch + 1) * predicted.element_size(), predicted.device)
    core.launch(
        "temporal_consistency_forward", predicted.device, predicted.element_size(),
        predicted, target, mask, loss, similarity, slopes, scratch, steps, batch, size, discount,
    )  # fmt: skip
    return loss, similarity, slopes


def temporal_consistency_backward(grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    grad_predicted = definition.temporal_consistency_backward_outputs(grad_loss, slopes, predicted, target)
    core.launch(
        "temporal_consistency_backward", predicted.device, predicted.element_size(),
        grad_loss, slopes, predicted, target, grad_predicted, slopes.numel() // 2, predicted.shape[-1],
    )  # fmt: skip
    return grad_predicted

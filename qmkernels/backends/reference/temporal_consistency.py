"""iQRL's temporal consistency on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64. ``predicted`` and ``target`` are (H, B, D), also in half
precision, as for IQE; ``mask`` is (H, B) or None.

``loss``        0-d.
``similarity``  (H,): the mean cosine per step, including masked rows.
``slopes``      (2, H, B): backward's factors of the rows of target, and of predicted.
"""

from __future__ import annotations

from torch import Tensor

from ...definitions import temporal_consistency as definition


def temporal_consistency_forward(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``loss, similarity, slopes``."""
    cosine = definition.cosines(predicted, target)
    loss = definition.loss_of(cosine, mask, discount)
    return loss, cosine.mean(dim=-1), definition.slopes(predicted, target, mask, discount)


def temporal_consistency_backward(grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    """Returns ``grad_predicted`` (H, B, D)."""
    return definition.gradient(grad_loss, slopes, predicted, target)

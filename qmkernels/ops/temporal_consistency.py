"""iQRL's temporal consistency as one op: latents to loss, and back. `losses.temporal_consistency` calls it."""

from __future__ import annotations

from torch import Tensor

from ..definitions import temporal_consistency as definition
from .kernel_function import on_backend
from .loss_function import loss_function
from .registration import register


def _fake_forward(predicted, target, mask, discount, backend):
    steps, batch, _ = predicted.shape
    return predicted.new_empty(()), predicted.new_empty(steps), predicted.new_empty(2, steps, batch)


def _fake_backward(grad_loss, slopes, predicted, target, backend):
    return predicted.new_empty(predicted.shape)


temporal_consistency_forward = register(
    "temporal_consistency_forward(Tensor predicted, Tensor target, Tensor? mask, float discount, str backend)"
    " -> (Tensor, Tensor, Tensor)",
    on_backend("temporal_consistency", "temporal_consistency_forward"),
    _fake_forward,
)
temporal_consistency_backward = register(
    "temporal_consistency_backward(Tensor grad_loss, Tensor slopes, Tensor predicted, Tensor target, str backend)"
    " -> Tensor",
    on_backend("temporal_consistency", "temporal_consistency_backward"),
    _fake_backward,
)


def composed(predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float) -> tuple[Tensor, Tensor]:
    """Loss and similarity in plain PyTorch, for what a kernel does not do: derivatives of derivatives, or by the mask,
    and torch.func."""
    cosine = definition.cosines(predicted, target)
    return definition.loss_of(cosine, mask, discount), cosine.detach().mean(dim=-1)


def _gradients(grad_loss, tensors, kept, settings, needs):
    """Of predicted alone."""
    predicted, target, _ = tensors
    return temporal_consistency_backward(grad_loss, *kept, predicted, target, settings[-1]), None, None


_temporal_consistency = loss_function(
    "TemporalConsistency",
    temporal_consistency_forward,
    _gradients,
    lambda *given: composed(*given)[0],
    num_tensors=3,
    kept_from=2,
)


def temporal_consistency(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Loss and similarity of checked arguments in the dtype of computation; target and mask require no gradient."""
    return _temporal_consistency(predicted, target, mask, discount, backend)[:2]

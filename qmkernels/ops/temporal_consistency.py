"""iQRL's temporal consistency as one op, from latents to loss; `losses.temporal_consistency` calls it."""

from __future__ import annotations

from torch import Tensor

from ..definitions import temporal_consistency as definition
from ..definitions.dtypes import in_compute_dtype
from .autograd import Op
from .registration import Kernel


def composed(predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float) -> tuple[Tensor, Tensor]:
    """Computes loss and similarity in plain PyTorch."""
    cosine = definition.cosines(in_compute_dtype(predicted), in_compute_dtype(target))
    return definition.loss_of(cosine, mask, discount), cosine.detach().mean(dim=-1)


def _backward(run, grad_loss, saved, settings, needs):
    """Returns the gradient of predicted; there are no others."""
    predicted, target, _, slopes = saved
    return run(grad_loss, slopes, predicted, target), None, None


_temporal_consistency = Op(
    "TemporalConsistency",
    Kernel(
        "temporal_consistency",
        "temporal_consistency_forward(Tensor predicted, Tensor target, Tensor? mask, float discount, str backend)"
        " -> (Tensor, Tensor, Tensor)",
        definition.temporal_consistency_forward_outputs,
    ),
    Kernel(
        "temporal_consistency",
        "temporal_consistency_backward(Tensor grad_loss, Tensor slopes, Tensor predicted, Tensor target, str backend)"
        " -> Tensor",
        definition.temporal_consistency_backward_outputs,
    ),
    plain=composed,
    saved=lambda tensors, outputs: (*tensors, outputs[2]),
    backward=_backward,
    num_results=2,
    fixed=(1, 2),
)


def temporal_consistency(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Returns loss and similarity for checked arguments, a mask in the compute dtype; no gradient flows to target."""
    if mask is not None and mask.requires_grad:
        return composed(predicted, target, mask, discount)
    return _temporal_consistency((predicted, target, mask), (discount,), backend)

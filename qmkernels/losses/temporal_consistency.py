"""iQRL's self-supervised loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backends import dispatch
from ..definitions.dtypes import compute_dtype
from ..ops.temporal_consistency import composed
from ..ops.temporal_consistency import temporal_consistency as fused
from . import checks


class TemporalConsistency(NamedTuple):
    """``loss`` is the scalar to minimise; ``similarity`` (H,), detached, is the mean cosine per step."""

    loss: Tensor
    similarity: Tensor


def temporal_consistency(
    predicted: Tensor, target: Tensor, mask: Tensor | None = None, *, discount: float = 0.9
) -> TemporalConsistency:
    r"""Compares latents rolled out by a model with encoded ones.

    .. math:: \sum_{h=0}^{H-1} \rho^h\, \overline{m_h (1 - \cos(\hat z_h, \bar z_h))}

    Args:
        predicted: latents of the rollout, ``(H, B, D)``; float32, float64, bfloat16 or float16.
        target: latents of the momentum encoder, of the same shape, dtype and device.
        mask: ``(H, B)`` bool or float, 0 from the step after a termination on. Default: all 1. It weights only the
            loss; the mean is over all rows, and ``similarity`` includes masked ones.
        discount: rho. Default 0.9.

    Returns:
        `TemporalConsistency`, in float32 for half latents, else in their dtype. The cosine of a zero vector is 0: norms
        below 1e-8 count as 1e-8.

    Gradients flow to predicted and a float mask, none to target. A NaN or infinity, even in a masked row, gives NaN in
    the loss, in the similarity of its step and in the gradient of its row; other rows keep their gradients. So does a
    dot product beyond the range of the dtype.

    Raises:
        ValueError: latents that are not (H, B, D), differ in shape or are empty, or a mask of another shape.
        TypeError: latents that are not float tensors of one dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Scannell et al. 2024, arXiv 2406.02696, equation 5.

    Example:
        >>> predicted, target = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> qm.losses.temporal_consistency(predicted, target, discount=0.5)
        TemporalConsistency(loss=tensor(0.1464), similarity=tensor([1.0000, 0.7071]))
    """
    checks.check_rows("temporal_consistency", predicted=predicted, target=target)
    if predicted.dim() != 3:
        raise ValueError(f"temporal_consistency: predicted must be (H, B, D), got {tuple(predicted.shape)}.")
    target = target.detach()
    if mask is not None:
        _check_mask(mask, predicted)
        mask = mask.to(compute_dtype(predicted))
    if isinstance(discount, Tensor):
        return TemporalConsistency(*composed(predicted, target, mask, discount))
    return TemporalConsistency(*fused(predicted, target, mask, float(discount), dispatch.requested(None)))


def _check_mask(mask: Tensor, predicted: Tensor) -> None:
    if mask.shape != predicted.shape[:2]:
        raise ValueError(f"temporal_consistency: mask must be {tuple(predicted.shape[:2])}, got {tuple(mask.shape)}.")
    if mask.device != predicted.device:
        raise RuntimeError(
            f"temporal_consistency: mask must be on {predicted.device}, like the latents, got {mask.device}."
        )

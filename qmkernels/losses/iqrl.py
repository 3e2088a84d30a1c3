"""iQRL's self-supervised loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from . import common


class TemporalConsistency(NamedTuple):
    """``loss`` is the scalar to minimise; ``similarity`` (H,), detached, is the mean cosine of every step."""

    loss: Tensor
    similarity: Tensor


def temporal_consistency(
    predicted: Tensor, target: Tensor, mask: Tensor | None = None, *, discount: float = 0.9
) -> TemporalConsistency:
    r"""Latents rolled out by a model, held against encoded ones.

    .. math:: \sum_{h=0}^{H-1} \rho^h\, \overline{m_h (1 - \cos(\hat z_h, \bar z_h))}

    Args:
        predicted: latents of the rollout, ``(H, B, D)``.
        target: latents of the momentum encoder, of the same shape; no gradient flows to them.
        mask: ``(H, B)``, 0 from the step after a termination on; bool or float. Default: all 1.
        discount: rho. Default 0.9.

    Returns:
        `TemporalConsistency`. The cosine of a zero vector is 0.

    Raises:
        ValueError: empty or mismatched batches, a mask of another shape.

    Source: Scannell et al. 2024, arXiv 2406.02696, equation 5.
    """
    common.check_rows("temporal_consistency", predicted=predicted, target=target)
    if predicted.dim() != 3:
        raise ValueError(f"temporal_consistency: predicted must be (H, B, D), got {tuple(predicted.shape)}.")
    cosine = functional.cosine_similarity(predicted, target.detach(), dim=-1)
    losses = 1 - cosine
    if mask is not None:
        if mask.shape != losses.shape:
            raise ValueError(f"temporal_consistency: mask must be {tuple(losses.shape)}, got {tuple(mask.shape)}.")
        losses = losses * mask.to(losses.dtype)
    weights = discount ** torch.arange(losses.shape[0], dtype=losses.dtype, device=losses.device)
    return TemporalConsistency((weights * losses.mean(dim=-1)).sum(), cosine.detach().mean(dim=-1))

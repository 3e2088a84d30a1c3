"""The loss of QRL's latent dynamics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import dispatch
from ..definitions.latent_dynamics import loss_of
from ..ops.arguments import in_compute_dtype, tensor_like
from ..ops.latent_dynamics import latent_dynamics as by_kernel
from . import checks
from .fused_head import fused_iqe


class LatentDynamics(NamedTuple):
    """``loss`` is the scalar to minimise; the others, detached, are the mean distances in both directions."""

    loss: Tensor
    to_target: Tensor
    from_target: Tensor


def latent_dynamics(head: checks.Head, predicted: Tensor, target: Tensor, *, power: int = 2) -> LatentDynamics:
    r"""Holds predicted latents against encoded ones by the quasimetric, in both directions.

    .. math:: \tfrac12\, \overline{d(\hat z_i, z_i)^p + d(z_i, \hat z_i)^p}

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        predicted, target: ``(..., B, D)``, both with gradients.
        power: p, 2 (QRL) or 1 (OGBench). Default 2.

    Returns:
        `LatentDynamics`.

    Raises:
        ValueError: empty or mismatched batches, another power.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 12.
    """
    checks.check_head("latent_dynamics", head)
    checks.check_rows("latent_dynamics", predicted=predicted, target=target)
    if power not in (1, 2):
        raise ValueError(f"latent_dynamics: power must be 1 or 2, got {power!r}.")
    fused = fused_iqe(head, predicted)
    if fused is not None:
        predicted, target = in_compute_dtype(predicted), in_compute_dtype(target)
        if predicted.dim() > 2:
            predicted, target = predicted.flatten(0, -2), target.flatten(0, -2)
        iqe, max_weight = fused
        if max_weight is not None:
            max_weight = tensor_like("latent_dynamics", "max_weight", max_weight, predicted)
        tensors, settings = (predicted, target, max_weight), (*iqe, int(power))
        loss, stats = by_kernel(tensors, settings, dispatch.requested(None))
        return LatentDynamics(loss, *stats.unbind())
    own = getattr(head, "bidirectional", None)
    there, back = own(predicted, target) if own else (head(predicted, target), head(target, predicted))
    both = torch.stack([there, back])
    loss = loss_of(both, power)
    there, back = both.detach().flatten(1).mean(dim=1)
    return LatentDynamics(loss, there, back)

"""QRL's loss of the latent dynamics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import dispatch
from ..definitions.latent_dynamics import loss_of
from ..ops.arguments import tensor_like
from ..ops.latent_dynamics import latent_dynamics as by_kernel
from . import checks
from .fused_head import fused_iqe


class LatentDynamics(NamedTuple):
    """``loss`` is the scalar to minimise; the others, detached and 0-d, are the mean distances in both directions."""

    loss: Tensor
    to_target: Tensor
    from_target: Tensor


def latent_dynamics(head: checks.Head, predicted: Tensor, target: Tensor, *, power: int = 2) -> LatentDynamics:
    r"""Compares predicted latents with encoded ones by the quasimetric, in both directions.

    .. math:: \tfrac12\, \overline{d(\hat z_i, z_i)^p + d(z_i, \hat z_i)^p}

    A head with ``fused_iqe`` runs in one kernel, any other in composed ops: the numbers agree.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        predicted, target: ``(..., B, D)``; float32, float64, bfloat16 or float16.
        power: p, 2 (QRL) or 1 (OGBench). Default 2.

    Returns:
        `LatentDynamics`, in float32 for half embeddings, else in their dtype; the mean distances are in the head's
        unit, environment steps in QRL.

    Gradients flow to predicted, target and the head's parameters. NaN in a row gives NaN in the loss and in the
    gradients of that row; infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that differ or are empty, another power, a head with a discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 12.

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> qm.losses.latent_dynamics(head, torch.zeros(1, 2), torch.tensor([[3.0, -1.0]]))
        LatentDynamics(loss=tensor(5.), to_target=tensor(3.), from_target=tensor(1.))
    """
    checks.check_head("latent_dynamics", head)
    checks.check_rows("latent_dynamics", predicted=predicted, target=target)
    if power not in (1, 2):
        raise ValueError(f"latent_dynamics: power must be 1 or 2, got {power!r}.")
    fused = fused_iqe(head, predicted)
    if fused is not None:
        if predicted.dim() > 2:
            predicted, target = predicted.flatten(0, -2), target.flatten(0, -2)
        iqe, max_weight = fused
        if max_weight is not None:
            max_weight = tensor_like("latent_dynamics", "max_weight", max_weight, predicted)
        tensors, settings = (predicted, target, max_weight), (*iqe, int(power))
        loss, stats = by_kernel(tensors, settings, dispatch.requested(None))
        return LatentDynamics(loss, *stats.unbind())
    bidirectional = getattr(head, "bidirectional", None)
    if bidirectional is None:
        both = torch.stack([head(predicted, target), head(target, predicted)])
    else:
        both = torch.stack([*bidirectional(predicted, target)])
    return LatentDynamics(loss_of(both, power), *both.detach().flatten(1).mean(dim=1).unbind())

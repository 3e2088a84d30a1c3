"""QRL's latent dynamics with an IQE head on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64, ``predicted`` and ``target``, (B, D), also in half
precision, as for IQE. ``*settings`` are the fields of ``definitions.latent_dynamics.LatentDynamicsSettings`` in order.
``max_weight`` is 0-d, as for IQE, None unless the reduction is maxmean. A tensor that is not needed is None. In what is
kept, pair 0 is from predicted to target and pair 1 is back.

``loss``     0-d.
``stats``    (2,): the mean distances.
``slopes``   (2, B): the derivative of the loss by each distance.
``ends``     uint8 (2, B, C, ceil(2K / 8)), ``largest`` int32 (2, B) and ``spread`` (2, B): as for IQE.
"""

from __future__ import annotations

from torch import Tensor

from ...arguments.latent_dynamics import LatentDynamicsSettings
from ...definitions import latent_dynamics as definition
from ...definitions.latent_dynamics import Kept
from . import iqe


def latent_dynamics_forward(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> Kept:
    """Returns ``loss, stats, slopes, ends, largest, spread``."""
    return definition.forward_with(iqe, predicted, target, max_weight, LatentDynamicsSettings(*settings))


def latent_dynamics_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    *settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``grad_predicted``, ``grad_target`` (B, D), in the dtype of ``like``, which is theirs, and
    ``grad_max_weight``, 0-d, None without a weight."""
    return definition.backward_with(iqe, grad_loss, slopes, ends, largest, spread, max_weight, like, *settings)

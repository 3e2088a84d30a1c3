"""QRL's critic with an IQE head on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64, x, y and goal also in half precision, as for IQE.
``*settings`` are the fields of ``definitions.qrl_critic.QrlCriticSettings`` in order. x, y and goal are (B, D); without
a goal (None) row i's is row i - 1 of y, and the first row's is the last. ``max_weight`` is 0-d, as for IQE, None unless
the reduction is maxmean; ``raw`` is 0-d; ``cost`` is (B,) or (1,). A tensor that is not needed is None. In what is kept
for backward, pair 0 is to the goals and pair 1 to y.

``loss``     0-d.
``stats``    (6,): push, violation, multiplier, mean distance to the goals, mean distance to y and, at
             ``SLOPE_OF_RAW``, the derivative by ``raw``.
``slopes``   (2, B): the derivative of the loss by each distance.
``ends``     uint8 (2, B, C, ceil(2K / 8)), ``largest`` int32 (2, B) and ``spread`` (2, B): as for IQE.
"""

from __future__ import annotations

from torch import Tensor

from ...arguments.qrl_critic import QrlCriticSettings
from ...definitions import qrl_critic as definition
from ...definitions.qrl_critic import Kept
from . import iqe


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> Kept:
    """Returns ``loss, stats, slopes, ends, largest, spread``."""
    return definition.forward_with(iqe, x, y, goal, max_weight, raw, cost, QrlCriticSettings(*settings))


def qrl_critic_backward(
    grad_loss: Tensor,
    stats: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    has_goal: bool,
    *settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns ``grad_x, grad_y, grad_goal`` (B, D), in the dtype of ``like``, which is x's, the third None without a
    goal, and ``grad_max_weight``, None without a weight, and ``grad_raw``, both 0-d."""
    return definition.backward_with(
        iqe, grad_loss, stats, slopes, ends, largest, spread, max_weight, like, has_goal, *settings
    )

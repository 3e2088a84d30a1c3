"""QRL's critic loss with an IQE head on Triton: IQE's kernels, and torch for the numbers per row."""

from __future__ import annotations

from torch import Tensor

from ...definitions import qrl_critic as definition
from ...definitions.qrl_critic import Kept, QrlCriticSettings
from . import iqe


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> Kept:
    return definition.forward_with(iqe, x, y, goal, max_weight, raw, cost, QrlCriticSettings(*settings))


def qrl_critic_backward(grad_loss: Tensor, *kept) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return definition.backward_with(iqe, grad_loss, *kept)

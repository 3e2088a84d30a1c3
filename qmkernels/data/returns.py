"""Returns of several steps, from windows of episodes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class NStepReturns(NamedTuple):
    """Of every window ``value`` (B,), ``bootstrap_index`` (B,) int64 and ``bootstrap_discount`` (B,)."""

    value: Tensor
    bootstrap_index: Tensor
    bootstrap_discount: Tensor


def n_step_returns(windows: dict[str, Tensor], steps: int, discount: float) -> NStepReturns:
    r"""Discounted rewards of at most n steps, and what stands for the rewards after them.

    .. math:: R = \sum_{k=0}^{m-1} \gamma^k r_k,\qquad y = R + \gamma^m\, [\text{not terminated}]\; V(s_m)

    with m the lesser of n and the steps that the window has before its episode ends, terminated or truncated.

    Args:
        windows: what ``sample_windows`` returns: ``reward``, ``terminated`` and ``mask``, (B, H) each.
        steps: n, from 1 to H.
        discount: gamma.

    Returns:
        `NStepReturns`: R, m, which is the place of s_m in the window's observations, and gamma^m, which is 0 where the
        m-th step terminated the episode.

    Raises:
        ValueError: n below 1 or above H.
    """
    reward, mask = windows["reward"], windows["mask"]
    if not 1 <= steps <= reward.shape[1]:
        raise ValueError(f"n_step_returns: steps must be from 1 to the {reward.shape[1]} of a window, got {steps}.")
    reward, mask = reward[:, :steps], mask[:, :steps]
    weights = discount ** torch.arange(steps + 1, dtype=reward.dtype, device=reward.device)
    count = mask.sum(dim=1)
    terminated = windows["terminated"].gather(1, count[:, None] - 1).squeeze(1)
    return NStepReturns((weights[:-1] * mask * reward).sum(dim=1), count, weights[count].masked_fill(terminated, 0.0))

"""N-step returns from windows of episodes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class NStepReturns(NamedTuple):
    """Per window: ``value`` (B,), ``bootstrap_index`` (B,) int64 and ``bootstrap_discount`` (B,)."""

    value: Tensor
    bootstrap_index: Tensor
    bootstrap_discount: Tensor


def n_step_returns(windows: dict[str, Tensor], steps: int, discount: float) -> NStepReturns:
    r"""Computes the discounted rewards of at most n steps, and where and how to bootstrap the rewards after them.

    .. math:: R = \sum_{k=0}^{m-1} \gamma^k r_k,\qquad y = R + \gamma^m\, [\text{not terminated}]\; V(s_m)

    where m is the smaller of n and the window's steps before its episode ends, terminated or truncated.

    Args:
        windows: from ``sample_windows``: ``reward``, ``terminated`` and ``mask``, (B, H) each.
        steps: n, from 1 to H.
        discount: gamma.

    Returns:
        `NStepReturns`: R; m, the index of s_m in the window's observations; and gamma^m, or 0 where the m-th step
        terminated the episode.

    Raises:
        ValueError: n is below 1 or above H.
    """
    reward, mask = windows["reward"], windows["mask"]
    if not 1 <= steps <= reward.shape[1]:
        raise ValueError(f"n_step_returns: steps must be from 1 to the window's {reward.shape[1]}, got {steps}.")
    reward, mask = reward[:, :steps], mask[:, :steps]
    weights = discount ** torch.arange(steps + 1, dtype=reward.dtype, device=reward.device)
    count = mask.sum(dim=1)
    terminated = windows["terminated"].gather(1, count[:, None] - 1).squeeze(1)
    return NStepReturns((weights[:-1] * mask * reward).sum(dim=1), count, weights[count].masked_fill(terminated, 0.0))

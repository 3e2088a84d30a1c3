"""MPPI, model predictive path integral control: plans of continuous actions for whatever predicts their costs.

Source: Williams et al. 2017, "Information Theoretic MPC for Model-Based Reinforcement Learning", without the cost of
the actions themselves. It knows no agent, so that its one loop can be read, tested and used apart from theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MPPI:
    """How plans are searched for; the numbers are ours."""

    horizon: int = 5
    """Actions in a plan."""
    samples: int = 256
    """Plans that are compared in an iteration; the first is the one that the last iteration found."""
    iterations: int = 4
    """Times that plans are drawn around the mean of the best."""
    temperature: float = 1.0
    """Cost, in environment steps, by which a plan is worse that has 1/e of another's weight."""
    noise_scale: float = 0.5
    """Standard deviation of the drawn actions, in halves of their range."""
    step_weight: float = 1.0
    """Weight of the distances before the last in a cost; with 0, which is cheaper, plans dawdle near the goal."""

    def __post_init__(self) -> None:
        for name in ("horizon", "samples", "iterations", "temperature", "noise_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"MPPI: {name} must be positive, got {getattr(self, name)}.")
        if not self.step_weight >= 0:
            raise ValueError(f"MPPI: step_weight must be at least 0, got {self.step_weight}.")


def first_actions(
    cost: Callable[[Tensor], Tensor],
    centre: Tensor,
    half_range: Tensor,
    leading: tuple[int, ...],
    settings: MPPI,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The first actions (*leading, action_size) of the plans found for a batch of problems.

    A plan's weight is exp(-cost / temperature), and what is found is the weighted mean.

    Args:
        cost: plans (*leading, samples, horizon, action_size) to their costs (*leading, samples).
        centre, half_range: (action_size,), of the actions' range; plans are clipped to it.
        leading: sizes of the batch. All its rows are given the same noise: none depends on which others there are.
        generator: of the noise, on the device of ``centre``. Default: torch's.
    """
    low, high = centre - half_range, centre + half_range
    shape = (settings.samples, settings.horizon, len(centre))
    mean = centre.expand(*leading, *shape[1:])
    for _ in range(settings.iterations):
        noise = torch.randn(shape, generator=generator, device=centre.device, dtype=centre.dtype)
        noise[0] = 0
        plans = (mean.unsqueeze(-3) + settings.noise_scale * half_range * noise).clamp(low, high)
        weight = torch.softmax(-cost(plans) / settings.temperature, dim=-1)
        mean = (weight[..., None, None] * plans).sum(dim=-3)
    return mean[..., 0, :].clamp(low, high)

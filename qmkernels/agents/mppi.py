"""MPPI, model predictive path integral control: plans continuous actions by any function that predicts their costs.

Source: Williams et al. 2017, "Information Theoretic MPC for Model-Based Reinforcement Learning", without the cost of
the actions themselves. It knows no agent, so that its loop can be read, tested and used on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MPPI:
    """Settings of the search; the default values are ours."""

    horizon: int = 5
    """Actions in a plan."""
    samples: int = 256
    """Plans compared per iteration; the first is the result of the previous iteration."""
    iterations: int = 4
    """Rounds of drawing plans around the weighted mean."""
    temperature: float = 1.0
    """Difference in cost, in environment steps, that lowers a plan's weight by a factor of e."""
    noise_scale: float = 0.5
    """Standard deviation of the drawn actions, in units of half their range."""
    step_weight: float = 1.0
    """Weight in the cost of all distances but the last; 0 is cheaper, but plans then dawdle near the goal."""

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
    """Returns the first actions (*leading, action_size) of the plans for a batch of problems.

    A plan's weight is exp(-cost / temperature); the result is the weighted mean.

    Args:
        cost: maps plans (*leading, samples, horizon, action_size) to costs (*leading, samples).
        centre, half_range: (action_size,), of the actions' range; plans are clipped to it.
        leading: leading sizes of the batch. All rows share the same noise, so that no row depends on the others.
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

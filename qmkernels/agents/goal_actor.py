"""The actors of goal-conditioned agents, whose actions stay within a range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import FourierFeatures, multilayer_perceptron

# Actions beyond this share of half their range share the probability of the whole tail.
_TANH_THRESHOLD = 0.999


def action_range(agent: str, size: int, low: Any, high: Any, device: Any = None) -> tuple[Tensor, Tensor]:
    """Returns the ends of the actions' range, (size,) each, from numbers or one per value; ValueError unless finite."""
    low, high = (torch.as_tensor(end, dtype=torch.float32, device="cpu").expand(size) for end in (low, high))
    if not (torch.isfinite(low) & torch.isfinite(high) & (low < high)).all():
        raise ValueError(
            f"{agent}: actions must have finite ranges, got from {low.tolist()} to {high.tolist()}; rescale them."
        )
    device = torch.get_default_device() if device is None else device
    return low.to(device, copy=True), high.to(device, copy=True)


class TanhNormal:
    """The tanh of a normal variable, scaled to the range of the actions; parameters are (..., action_size)."""

    def __init__(self, mean: Tensor, raw_scale: Tensor, centre: Tensor, half_range: Tensor) -> None:
        self.mean, self.scale = mean.float(), functional.softplus(raw_scale.float()) + 1e-4
        self.centre, self.half_range = centre, half_range

    @property
    def mode(self) -> Tensor:
        """The tanh of the mean, scaled to the range."""
        return self.centre + self.half_range * self.mean.tanh()

    def sample(self) -> Tensor:
        """Draws an action, with gradients for the parameters."""
        return self.centre + self.half_range * (self.mean + self.scale * torch.randn_like(self.mean)).tanh()

    def entropy(self, samples: int) -> Tensor:
        """Estimates the entropy in nats, (...): the normal's, plus the mean of the samples' log-Jacobians."""
        noise = torch.randn(samples, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        normal = 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()
        return (normal + self._log_jacobian(self.mean + self.scale * noise).mean(dim=0)).sum(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns the log-density (...); within a thousandth of an end of the range, the mean density of that tail."""
        unit = (action - self.centre) / self.half_range
        clipped = unit.clamp(-_TANH_THRESHOLD, _TANH_THRESHOLD)
        raw = clipped.atanh()
        standard = (raw - self.mean) / self.scale
        inside = -0.5 * standard.square() - self.scale.log() - 0.5 * math.log(2 * math.pi) - self._log_jacobian(raw)
        tail = torch.special.log_ndtr(-standard * clipped.sign())
        tail = tail - math.log(1 - _TANH_THRESHOLD) - self.half_range.log()
        return torch.where(unit.abs() >= _TANH_THRESHOLD, tail, inside).sum(dim=-1)

    def _log_jacobian(self, raw: Tensor) -> Tensor:
        """Returns log(d action / d raw) = log(half_range (1 - tanh^2)) without cancellation."""
        return self.half_range.log() + 2 * (math.log(2) - raw - functional.softplus(-2 * raw))


class UnitNormal:
    """A normal with deviation 1 around a mode, in units of half the range, to which samples are clipped."""

    def __init__(self, mean: Tensor, centre: Tensor, half_range: Tensor) -> None:
        self.centre, self.half_range = centre, half_range
        self.mode = centre + half_range * mean.float().tanh()

    def sample(self) -> Tensor:
        noisy = self.mode + self.half_range * torch.randn_like(self.mode)
        return torch.minimum(torch.maximum(noisy, self.centre - self.half_range), self.centre + self.half_range)

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns the log-density (...) up to a constant: minus half the squared distance to the mode."""
        return -0.5 * ((action - self.mode) / self.half_range).square().sum(dim=-1)


Policy = TanhNormal | UnitNormal


class Actor(nn.Module):
    """Maps observation and goal to a `TanhNormal`, or with ``unit`` to a `UnitNormal`, whose initial mean is 0.

    ``encoder``: for observations; default: none. ``features``: applied to the row of observation and goal before the
    first layer. ``network``: arguments of `multilayer_perceptron`.
    """

    def __init__(
        self,
        input_size: int,
        low: Tensor,
        high: Tensor,
        sizes: Iterable[int],
        unit: bool = False,
        encoder: nn.Module | None = None,
        features: FourierFeatures | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        self.encoder = encoder or nn.Identity()
        outputs = len(low) if unit else 2 * len(low)
        inputs = input_size + (features.added if features else 0)
        self.network = multilayer_perceptron(inputs, *sizes, outputs, zero_output=True, **network)
        if features and features.count:
            self.network.insert(0, features)
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)
        self.unit = unit

    def forward(self, observation: Tensor, goal: Tensor) -> Policy:
        output = self.network(torch.cat([self.encoder(observation), goal], dim=-1))
        if self.unit:
            return UnitNormal(output, self.centre, self.half_range)
        return TanhNormal(*output.chunk(2, dim=-1), self.centre, self.half_range)

    def in_halves(self, action: Tensor) -> Tensor:
        """Scales actions to units of half their range, from -1 to 1."""
        return (action - self.centre) / self.half_range

"""The sets that PQE assigns to coordinates, half-lines or Gaussian bumps, and how likely their counts are ordered."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor, nn

from ..ops.poisson import log_poisson_le
from .pqe_measures import GaussianBasedMeasure, LebesgueMeasure, MeasureBase


def ndtr(x: Tensor) -> Tensor:
    """Computes the standard normal distribution function to full relative accuracy, in float64.

    torch.special.ndtr is one plus an error function and has no correct digit left below -8; erfc in float32 has a
    relative error of 1e-5 at -12.
    """
    return (0.5 * torch.special.erfc(x.double() * -math.sqrt(0.5))).to(x.dtype)


class ShapeBase(nn.Module, metaclass=abc.ABCMeta):
    """Assigns a set to every real number; to be subclassed."""

    @abc.abstractmethod
    def expected_quasipartiton(
        self, u: Tensor, v: Tensor, *, measure: MeasureBase, scales: Tensor | None = None
    ) -> Tensor:
        r"""Returns the components, ``(..., C)``, for u and v, ``(..., C, K)``::

            1 - prod_k Pr[ Poisson(measure(shape(u_k) \ shape(v_k))) <= Poisson(measure(shape(v_k) \ shape(u_k))) ]

        ``scales`` is ``measure.scales_net.collapse()``, if the caller already has it. The rates are divided by K, as in
        the published code (section C.4.1).
        """


class HalfLineShape(ShapeBase):
    """The half-line below u. Of two half-lines one contains the other, so the probability is an exponential."""

    def expected_quasipartiton(
        self, u: Tensor, v: Tensor, *, measure: MeasureBase, scales: Tensor | None = None
    ) -> Tensor:
        if isinstance(measure, LebesgueMeasure):
            exceeds = (v - u).clamp(max=0)
        elif isinstance(measure, GaussianBasedMeasure):
            sigma = measure.sigma.double()
            exceeds = (ndtr(v.double() / sigma) - ndtr(u.double() / sigma)).clamp(max=0)
            exceeds = measure.scale(exceeds.to(u.dtype), scales)
        else:
            raise NotImplementedError(
                f"HalfLineShape: measure must be LebesgueMeasure or GaussianBasedMeasure, got {type(measure).__name__}."
            )
        return -torch.expm1(exceeds.mean(dim=-1))


class GaussianShape(ShapeBase):
    """The area under a Gaussian density of variance 1 around u."""

    def expected_quasipartiton(
        self, u: Tensor, v: Tensor, *, measure: MeasureBase, scales: Tensor | None = None
    ) -> Tensor:
        if isinstance(measure, LebesgueMeasure):
            raise RuntimeError(
                "GaussianShape: under LebesgueMeasure all areas are equal and all distances symmetric; use "
                "GaussianBasedMeasure."
            )
        if not isinstance(measure, GaussianBasedMeasure):
            raise NotImplementedError(
                f"GaussianShape: measure must be GaussianBasedMeasure, got {type(measure).__name__}."
            )
        u_only, v_only = measure.scale_multiple(*self.rates(u, v, measure.sigma2), scales=scales)
        size = u.shape[-1]
        return -torch.expm1(log_poisson_le(u_only / size, v_only / size).sum(dim=-1))

    @staticmethod
    def rates(u: Tensor, v: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the measures under the bump of u only and of v only, for variance sigma2, each ``(..., C, K)``.

        Under the measure a bump is again a Gaussian, around u / (1 + sigma2) * sigma2 and of total T_u, and two bumps
        cross midway. The share Phi_u of it lies before the crossing. For u < v, v's bump is below u's there, and::

            u_only = Phi_u T_u - Phi_v T_v        v_only = (1 - Phi_v) T_v - (1 - Phi_u) T_u

        For u > v, u and v swap; at u = v both are exactly 0. Computed in float64, because near u = v these are small
        differences. Source: arXiv 2206.15478, section C.2.
        """
        dtype, u, v, sigma2 = u.dtype, u.double(), v.double(), sigma2.double()
        total_variance = 1 + sigma2
        share = sigma2 / total_variance
        middle = (u + v) / 2

        def below_and_above(center: Tensor) -> tuple[Tensor, Tensor]:
            total = torch.exp(-0.5 * center.square() / total_variance) / torch.sqrt(2 * math.pi * total_variance)
            place = (middle - center * share) / share.sqrt()
            return ndtr(place) * total, ndtr(-place) * total

        (u_below, u_above), (v_below, v_above) = below_and_above(u), below_and_above(v)
        below, above = u_below - v_below, u_above - v_above
        is_lower = u < v
        u_only, v_only = torch.where(is_lower, below, above), -torch.where(is_lower, above, below)
        # Rounding can make it slightly negative; this clips the value but not the gradient.
        return tuple((rate - rate.detach().clamp(max=0)).to(dtype) for rate in (u_only, v_only))

"""Pr[Poisson(a) <= Poisson(b)], in plain PyTorch: the definition of the op ``poisson``, on which PQE-GG is built.

X and Y are independent, with rates a, b >= 0. The derivatives are Pr[X = Y + 1] by b and -Pr[X = Y] by a. Of Pr[X > Y]
and Pr[X <= Y], the one that can be small is computed, as e^-exponent times a number of moderate size, so that
logarithms and ratios neither underflow nor cancel; the other is 1 minus it.

Limits: a negative or NaN rate, or two infinite ones, give NaN. An infinite a gives Pr[X <= Y] = 0, an infinite b gives
1, with derivatives 0, except that the logarithm for infinite a has derivatives -1 by a and infinity by b.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

COMPARISONS = ("le", "gt", "log_le")

# Up to this product of the rates the power series is used, with at most 49 terms; beyond it the integral. How many
# terms are enough, and whether the integral is needed, is only looked up on CPUs: others would have to wait for it.
_LARGEST_PRODUCT = 225.0


class _Parts(NamedTuple):
    """The last three, times exp(-exponent), are Pr[X > Y] if ``is_gt``, else Pr[X <= Y]; Pr[X = Y]; Pr[X = Y + 1]."""

    is_gt: Tensor
    exponent: Tensor
    tail: Tensor
    equal: Tensor
    one_more: Tensor


def _by_series(a: Tensor, b: Tensor) -> _Parts:
    """Computes sums over n of e^(a+b) Pr[X = n + k] Pr[Y = n] as a^k / k! c_k, c_k = sum_j (ab)^j k! / (j! (j + k)!).

    c_(k-1) = c_k + ab / (k (k + 1)) c_(k+1), run downwards from any start, gives the c_k up to a common factor, which
    follows from the power series of c_0. All terms are positive.
    """
    is_gt = (a <= b) | (a <= 2)
    rate, product = torch.where(is_gt, a, b), a * b
    largest = _LARGEST_PRODUCT**0.5  # of rate and the root of the product
    if a.device.type == "cpu" and a.numel():
        largest = float(torch.maximum(rate, product.sqrt()).detach().max())
    c = above = powers = bessel = torch.ones_like(a)
    for k in range(8 + int(10.5 * largest**0.5), 1, -1):
        above, c = c, c + product / (k * (k + 1)) * above
        powers = c + rate / k * powers  # sum of rate^k / k! c_k from k on, without the first term's factor
        bessel = 1 + product / (k * k) * bessel
    c_0, bessel = c + product / 2 * above, 1 + product * bessel
    factor = bessel / c_0
    tail = factor * torch.where(is_gt, rate * powers, rate * powers + c_0)
    return _Parts(is_gt, a + b, tail, bessel, factor * a * c)


def _by_integral(a: Tensor, b: Tensor) -> _Parts:
    """Integrates E[s^(X-Y)] / (2 pi i s (s - 1)) around a circle s = rho e^(i theta), rho > 1, which is Pr[X - Y > 0].

    At rho = sqrt(b / a), a <= b, the integrand is e^-w e^(-z (1 - cos theta)) / (s - 1) with w = (sqrt a - sqrt b)^2
    and z = 2 sqrt(ab). If the circle is nearer than 1 / sqrt(z) to the pole at s = 1, it is enlarged. The trapezoidal
    rule has an error of e^-40.
    """
    nodes, step = 68, 2 * math.pi / 40
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    root_z = (2 * a.sqrt() * b.sqrt()).sqrt()
    z, saddle = root_z.square(), torch.log1p((high - low) / low) / 2
    beyond = (1 / root_z - saddle).clamp(min=0)
    rho, rho_minus_1 = (saddle + beyond).exp(), torch.expm1(saddle + beyond)
    total = torch.zeros_like(a)
    for node in range(nodes):
        theta = node * step / root_z
        sine, one_minus_cosine = theta.sin(), 2 * (theta / 2).sin().square()
        size = (z * (2 * (beyond / 2).sinh().square() - beyond.cosh() * one_minus_cosine)).exp()
        phase, real, imaginary = z * beyond.sinh() * sine, rho_minus_1 - rho * one_minus_cosine, rho * sine
        value = size * (real * phase.cos() + imaginary * phase.sin()) / (real.square() + imaginary.square())
        total = total + (value / 2 if node == 0 else value)
    greater = total * (step / math.pi) / root_z
    exponent = ((a - b) / (a.sqrt() + b.sqrt())).square()
    equal, one_more = torch.special.i0e(z), (a.sqrt() / b.sqrt()) * torch.special.i1e(z)
    is_gt = a <= b
    return _Parts(is_gt, exponent, torch.where(is_gt, greater, greater + equal), equal, one_more)


def _parts(a: Tensor, b: Tensor) -> _Parts:
    """Computes the parts for finite rates of at least 0."""
    is_large = a * b > _LARGEST_PRODUCT
    small = _by_series(*(torch.where(is_large, 1.0, rate) for rate in (a, b)))
    if a.device.type == "cpu" and not is_large.any():
        return small
    large = _by_integral(*(torch.where(is_large, rate, 100.0) for rate in (a, b)))
    return _Parts(*(torch.where(is_large, *parts) for parts in zip(large, small, strict=True)))


def _finite(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the rates, 1 in place of pairs that are not finite rates; a mask of those; and a mask of NaN results."""
    is_finite = (a >= 0) & (b >= 0) & a.isfinite() & b.isfinite()
    is_undefined = ~((a >= 0) & (b >= 0)) | (a.isinf() & b.isinf())
    return torch.where(is_finite, a, 1.0), torch.where(is_finite, b, 1.0), is_finite, is_undefined


def poisson(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    """Returns Pr[X <= Y] for "le", Pr[X > Y] for "gt", the logarithm of the former for "log_le"; (...)."""
    a, b = torch.broadcast_tensors(a, b)
    finite_a, finite_b, is_finite, is_undefined = _finite(a, b)
    is_gt, exponent, tail, _, _ = _parts(finite_a, finite_b)
    probability = (-exponent).exp() * tail
    if comparison == "log_le":
        # The branch that is not taken must not take the logarithm of 0, whose derivative would be NaN.
        safe = torch.where(is_gt, 1.0, tail)
        out = torch.where(is_gt, torch.log1p(-torch.where(is_gt, probability, 0.0)), safe.log() - exponent)
        at_infinite_a, at_infinite_b = -math.inf, 0.0
    else:
        out = torch.where(is_gt == (comparison == "gt"), probability, 1 - probability)
        at_infinite_a, at_infinite_b = (0.0, 1.0) if comparison == "le" else (1.0, 0.0)
    limit = torch.where(is_undefined, math.nan, torch.where(a.isinf(), at_infinite_a, at_infinite_b).to(a.dtype))
    return torch.where(is_finite, out, limit)


def gradient(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    """Returns the derivatives of (grad_out * poisson(a, b)).sum() by a and by b."""
    finite_a, finite_b, is_finite, is_undefined = _finite(a, b)
    is_gt, exponent, tail, equal, one_more = _parts(finite_a, finite_b)
    scale = (-exponent).exp()
    if comparison == "log_le":
        at_most = torch.where(is_gt, 1 - torch.where(is_gt, scale * tail, 0.0), torch.where(is_gt, 1.0, tail))
        scale = torch.where(is_gt, scale, 1.0) / at_most
    scale = -scale if comparison == "gt" else scale
    of_log = (comparison == "log_le") & a.isinf()
    limits = (torch.where(of_log, value, 0.0).masked_fill(is_undefined, math.nan) for value in (-1.0, math.inf))
    return tuple(
        grad_out * torch.where(is_finite, derivative, limit.to(a.dtype))
        for derivative, limit in zip((-scale * equal, scale * one_more), limits, strict=True)
    )


def poisson_forward_outputs(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    return torch.empty_like(a)


def poisson_backward_outputs(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(b)

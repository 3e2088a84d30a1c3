"""Poisson comparisons in Triton: the functions of backends/reference/poisson.py, in the same order.

Precision: double for either dtype; relative error below 1e-12 for rates up to 1e4, even for small probabilities.

Method: with z = 2 sqrt(ab) and w = (sqrt a - sqrt b)^2, Pr[X = Y] = e^-w e^-z I_0(z), Pr[X = Y + 1] =
e^-w sqrt(a/b) e^-z I_1(z), and the tail, whichever of Pr[X > Y] and Pr[X <= Y] can be small, is e^-w times e^-z times
sum_{m>=1} (a/b)^(m/2) I_m(z), or that of b/a with the term m = 0.

- z <= 24, the series of csrc/math/poisson.h: I_k(z) = (z/2)^k / k! c_k by Miller's recurrence, sums by Horner's rule.
- z > 24: an integral, in place of that file's asymptotic expansion, which needs erfc. With r <= 1 the root of the
rates'
  ratio and g = e^(-z u^2) / sqrt(1 - u^2/2), e^-z sum_{m>=1} r^m I_m(z) is sqrt(2) / pi times
  int_0^sqrt2 g r (1 - r - u^2) / ((1 - r)^2 + 2 r u^2) du, from the integrals of I_m over an angle t, u^2 = 1 - cos t;
  likewise int g du for I_0 and int g (1 - u^2) du for I_1. In t = sqrt(z) u the midpoint rule of step 1/2 needs 13
  points. Its error comes from the poles at t = +-i sqrt(w) and is known: where sqrt(w) < 2 pi,
  e^w / (1 + e^(4 pi sqrt(w))) is missing; what remains is e^(-4 pi^2).

Cost: some 400 double operations per element for the series or the integral; both if a program's elements need both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import poisson as definition

BLOCK = 256
LARGEST_SERIES_ARGUMENT = tl.constexpr(24.0)
NUM_TERMS = tl.constexpr(48)  # for sums of powers of rates up to 12 = 24 / 2
NUM_POINTS = tl.constexpr(13)
TWO_PI = tl.constexpr(6.283185307179586)
LARGEST_RATE = tl.constexpr(1.7976931348623157e308)


@triton.jit
def _series(
    product,  # a * b
    half_z,
    rate,  # the rate whose powers are summed
):
    """Returns e^z, c_0, c_1 and sum_{k>=1} rate^k / k! c_k, all on the same scale."""
    c = tl.zeros_like(product) + 1
    above = c
    powers = c
    exponential_series = c
    # At the start of each round: c_k, c_{k+1} and, without their factors, the sums from k on.
    for k in tl.static_range(NUM_TERMS, 1, -1):
        below = c + product * (1.0 / (k * (k + 1))) * above
        above = c
        c = below
        powers = c + rate * (1.0 / k) * powers
        exponential_series = c + half_z * (1.0 / k) * exponential_series
    c_0 = c + product * 0.5 * above
    return c_0 + 2 * half_z * exponential_series, c_0, c, rate * powers


@triton.jit
def _integral(
    z,
    ratio,  # r = sqrt(smaller rate / larger rate)
    one_less_ratio,  # 1 - r, without cancellation
    root_w,
):
    """Returns e^-z I_0(z), e^-z I_1(z) and e^-z sum_{m>=1} r^m I_m(z)."""
    of_0 = tl.zeros_like(z)
    of_1 = of_0
    of_sum = of_0
    for n in range(NUM_POINTS):
        t = (tl.zeros((), tl.float64) + n) * 0.5 + 0.25
        u2 = t * t / z
        value = tl.exp(-t * t) / tl.sqrt(1 - 0.5 * u2)
        of_0 += value
        of_1 += value * (1 - u2)
        of_sum += value * ratio * (one_less_ratio - u2) / (one_less_ratio * one_less_ratio + 2 * ratio * u2)
    # step * sqrt(2 / z) / pi
    factor = tl.sqrt(2 / z) * (1.0 / TWO_PI)
    near = tl.where(root_w < TWO_PI, root_w, 0.0)
    of_poles = tl.exp(near * near) / (1 + tl.exp(near * (2 * TWO_PI)))
    return of_0 * factor, of_1 * factor, of_sum * factor + tl.where(root_w < TWO_PI, of_poles, 0.0)


@triton.jit
def _poisson_parts(a, b):
    """Returns, for rates of at least 0: w; the tail, Pr[X = Y] and Pr[X = Y + 1], each divided by e^-w; and whether the
    tail is Pr[X > Y] instead of Pr[X <= Y], whichever can be small. The other is above 0.13."""
    tail_is_gt = (a <= b) | (a <= 2)
    root_a = tl.sqrt(a)
    root_b = tl.sqrt(b)
    half_z = root_a * root_b
    z = 2 * half_z
    is_series = z <= LARGEST_SERIES_ARGUMENT
    sum_of_roots = root_a + root_b
    root_w = tl.abs(a - b) / tl.where(sum_of_roots > 0, sum_of_roots, 1.0)

    tail = tl.zeros_like(a)
    equal = tail
    one_more = tail
    if tl.max(is_series.to(tl.int32), axis=0) > 0:
        # Elements of the other case are computed as 0.
        rate = tl.where(is_series, tl.where(tail_is_gt, a, b), 0.0)
        half = tl.where(is_series, half_z, 0.0)
        total, c_0, c_1, powers = _series(half * half, half, rate)
        tail = tl.where(tail_is_gt, powers, powers + c_0) / total
        equal = c_0 / total
        one_more = a * c_1 / total
    if tl.min(is_series.to(tl.int32), axis=0) == 0:
        # Likewise, as 25 with equal rates.
        larger = tl.where(is_series, 1.0, tl.maximum(root_a, root_b))
        ratio = tl.where(is_series, 1.0, tl.minimum(root_a, root_b)) / larger
        of_0, of_1, of_sum = _integral(tl.where(is_series, 25.0, z), ratio, root_w / larger, root_w)
        tail = tl.where(is_series, tail, tl.where(tail_is_gt, of_sum, of_sum + of_0))
        equal = tl.where(is_series, equal, of_0)
        one_more = tl.where(is_series, one_more, of_1 * (root_a / tl.where(is_series, 1.0, root_b)))
    return root_w * root_w, tail, equal, one_more, tail_is_gt


@triton.jit
def poisson_forward_kernel(
    a_ptr,  # (size)
    b_ptr,  # (size)
    out_ptr,  # (size)
    size,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = here < size
    a = tl.load(a_ptr + here, mask=mask, other=0).to(tl.float64)
    b = tl.load(b_ptr + here, mask=mask, other=0).to(tl.float64)
    a_is_finite = (a >= 0) & (a <= LARGEST_RATE)
    b_is_finite = (b >= 0) & (b <= LARGEST_RATE)
    both = a_is_finite & b_is_finite
    w, tail, _, _, tail_is_gt = _poisson_parts(tl.where(both, a, 1.0), tl.where(both, b, 1.0))

    probability = tl.exp(-w) * tail
    if FORM == "log_le":
        # log1p(-p) = log(u) (-p) / (u - 1), u = 1 - p: the rounding of u cancels.
        u = 1 - probability
        log_rest = tl.where(u == 1, -probability, tl.log(u) * (-probability / tl.where(u == 1, 1.0, u - 1)))
        out = tl.where(tail_is_gt, log_rest, tl.log(tail) - w)
        at_infinity = tl.where(a_is_finite, 0.0, float("-inf"))
    elif FORM == "le":
        out = tl.where(tail_is_gt, 1 - probability, probability)
        at_infinity = tl.where(a_is_finite, 1.0, 0.0)
    else:
        out = tl.where(tail_is_gt, probability, 1 - probability)
        at_infinity = tl.where(a_is_finite, 0.0, 1.0)
    # One rate infinite; both infinite, or one negative or NaN.
    out = tl.where(both, out, at_infinity)
    is_defined = (a >= 0) & (b >= 0) & (a_is_finite | b_is_finite)
    out = tl.where(is_defined, out, float("nan"))
    tl.store(out_ptr + here, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def poisson_backward_kernel(
    grad_out_ptr,  # (size)
    a_ptr,  # (size)
    b_ptr,  # (size)
    grad_a_ptr,  # (size)
    grad_b_ptr,  # (size)
    size,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    dtype: tl.constexpr = grad_a_ptr.dtype.element_ty
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = here < size
    grad_out = tl.load(grad_out_ptr + here, mask=mask, other=0).to(tl.float64)
    a = tl.load(a_ptr + here, mask=mask, other=0).to(tl.float64)
    b = tl.load(b_ptr + here, mask=mask, other=0).to(tl.float64)
    a_is_finite = (a >= 0) & (a <= LARGEST_RATE)
    b_is_finite = (b >= 0) & (b <= LARGEST_RATE)
    both = a_is_finite & b_is_finite
    w, tail, equal, one_more, tail_is_gt = _poisson_parts(tl.where(both, a, 1.0), tl.where(both, b, 1.0))

    # by a: -factor * Pr[X = Y], by b: factor * Pr[X = Y + 1]
    factor = tl.exp(-w)
    if FORM == "gt":
        factor = -factor
    if FORM == "log_le":
        factor = tl.where(tail_is_gt, factor / (1 - factor * tail), 1 / tl.where(tail_is_gt, 1.0, tail))
    by_a = -factor * equal
    by_b = factor * one_more
    # With one infinite rate the probability is constant; for infinite a its logarithm falls as -(sqrt a - sqrt b)^2.
    is_falling = b_is_finite & (FORM == "log_le")
    is_defined = (a >= 0) & (b >= 0) & (a_is_finite | b_is_finite)
    by_a = tl.where(both, by_a, tl.where(is_falling, -1.0, 0.0))
    by_b = tl.where(both, by_b, tl.where(is_falling, float("inf"), 0.0))
    by_a = tl.where(is_defined, by_a, float("nan"))
    by_b = tl.where(is_defined, by_b, float("nan"))
    tl.store(grad_a_ptr + here, (grad_out * by_a).to(dtype), mask=mask)
    tl.store(grad_b_ptr + here, (grad_out * by_b).to(dtype), mask=mask)


def poisson_forward(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    out = definition.poisson_forward_outputs(a, b, comparison)
    if a.numel() > 0:
        with torch.cuda.device_of(a):
            poisson_forward_kernel[(triton.cdiv(a.numel(), BLOCK),)](a, b, out, a.numel(), FORM=comparison, BLOCK=BLOCK)
    return out


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = definition.poisson_backward_outputs(grad_out, a, b, comparison)
    if a.numel() > 0:
        with torch.cuda.device_of(a):
            poisson_backward_kernel[(triton.cdiv(a.numel(), BLOCK),)](
                grad_out, a, b, grad_a, grad_b, a.numel(), FORM=comparison, BLOCK=BLOCK
            )
    return grad_a, grad_b


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for comparison in definition.COMPARISONS:
        for kernel in (poisson_forward_kernel, poisson_backward_kernel):
            yield kernel, {"FORM": comparison, "BLOCK": BLOCK}

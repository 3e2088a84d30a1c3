"""The arithmetic of IQE's components on tiles: finite coordinates, and the reduction over components."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def finite_or_nan(value, highest):
    """Replaces infinite coordinates by the largest finite numbers, so that no difference is infinity - infinity."""
    value = tl.where(value > highest, highest, value)
    return tl.where(value < -highest, -highest, value)


@triton.jit
def linked(max_weight, LINK: tl.constexpr):
    """Returns the weight of the maximum, and its derivative by ``max_weight``: definitions.iqe.WEIGHT_LINKS."""
    weight = max_weight
    slope = tl.zeros_like(max_weight) + 1
    if LINK == "sigmoid":
        weight = 1 / (1 + tl.exp(-max_weight))
        slope = weight * (1 - weight)
    if LINK == "one_minus_sigmoid":
        weight = 1 / (1 + tl.exp(max_weight))
        slope = weight * (weight - 1)
    return weight, slope


@triton.jit
def weights_of(
    max_weight_ptr,  # (num_weights,): None unless maxmean
    place,  # indices of weights, of any shape
    num_components,
    dtype: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
):
    """Returns the reduction's derivative by every component's length, and the extra for the longest component."""
    zero = tl.zeros((), dtype)
    one = zero + 1
    share = one / (zero + num_components)
    every = one
    largest = zero
    if REDUCTION == "mean":
        every = share
    if REDUCTION == "max":
        every = zero
        largest = one
    if REDUCTION == "spread":
        every = -share
        largest = one
    if REDUCTION == "maxmean":
        largest, _ = linked(tl.load(max_weight_ptr + place), LINK)
        every = (one - largest) * share
    return every, largest


@triton.jit
def weighted(upstream, weight):
    """Returns the derivative by a length, given that by the distance. A component without weight gets 0 even from an
    infinite one, as components that are not the largest do from a maximum."""
    return tl.where(weight == 0, 0.0, upstream * weight)


@triton.jit
def reduced(total, greatest, max_weight_ptr, place, num_components, REDUCTION: tl.constexpr, LINK: tl.constexpr):
    """Returns the distance, given the sum and the maximum of the lengths. A NaN length makes the sum NaN."""
    mean = total / (tl.zeros((), total.dtype) + num_components)
    greatest = tl.where(total == total, greatest, total)
    out = total
    if REDUCTION == "mean":
        out = mean
    if REDUCTION == "max":
        out = greatest
    if REDUCTION == "spread":
        out = greatest - mean
    if REDUCTION == "maxmean":
        weight, _ = linked(tl.load(max_weight_ptr + place), LINK)
        out = mean + weight * (greatest - mean)
    return out


def sharing(max_weight: Tensor | None, num_rows: int) -> int:
    """Returns the number of neighbouring rows, or matrices, that share each weight of the maximum."""
    return num_rows if max_weight is None else num_rows // max_weight.numel()


def finite(tensor: Tensor) -> Tensor:
    highest = torch.finfo(tensor.dtype).max
    return tensor.clamp(-highest, highest)

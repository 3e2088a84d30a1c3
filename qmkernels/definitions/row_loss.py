"""Losses over rows, each with a distance and a target, in plain PyTorch: the definition of the op ``row_loss``.

With distances d, targets t, weights w and a mask, the loss is the mean of w * term(d, t) over the rows that the mask
keeps, 0 if there are none. The forms' terms:

    smooth_l1   u^2 / (2 beta) where |u| < beta, else |u| - beta / 2; u = d - t
    squared     (d - t)^2
    relative    (d / t - 1)^2
    upper       relu(d - t)^2
    apart       relu(t - d)^power
    expectile   |expectile - [t > d]| times (t - d)^2, or with a huber_delta above 0 times the Huber loss of t - d

A target below 0 counts as NaN, and so does a target of 0 in the form "relative".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.row_loss import RowLossSettings
from .iqe import iqe_backward_outputs, kept_of_reduction
from .shapes import empty


class RowLossStats(NamedTuple):
    """Diagnostics over the rows kept, 0 if there are none: mean distance, mean target, and the share of rows whose
    distance is below the target."""

    distance: Tensor
    target: Tensor
    below: Tensor


def valid(target: Tensor, form: str) -> Tensor:
    """Returns the targets, NaN for those that the form does not take."""
    is_invalid = target <= 0 if form == "relative" else target < 0
    return target.masked_fill(is_invalid, torch.nan)


def terms(distance: Tensor, target: Tensor, settings: RowLossSettings) -> Tensor:
    """Returns the terms of valid targets, differentiable by autograd."""
    form, beta, power, expectile, huber_delta = settings
    if form == "smooth_l1":
        return _huber(distance - target, beta) / beta if beta > 0 else (distance - target).abs()
    if form == "squared":
        return (distance - target).square()
    if form == "relative":
        return (distance / target - 1).square()
    if form == "upper":
        return (distance - target).relu().square()
    if form == "apart":
        return (target - distance).relu().pow(power)
    weight = (expectile - (target > distance).to(distance.dtype)).abs()
    if huber_delta > 0:
        return weight * _huber(distance - target, huber_delta)
    return weight * (target - distance).square()


def _huber(error: Tensor, delta: float) -> Tensor:
    """Returns half the square up to delta, and beyond it the line that continues it."""
    inside = error.clamp(-delta, delta)
    return inside * (error - 0.5 * inside)


def slopes_of_terms(distance: Tensor, target: Tensor, settings: RowLossSettings) -> Tensor:
    """Returns the derivatives of the terms by the distances."""
    form, beta, power, expectile, huber_delta = settings
    error = distance - target
    if form == "smooth_l1":
        return (error / beta).clamp(-1, 1) if beta > 0 else error.sign()
    if form == "squared":
        return 2 * error
    if form == "relative":
        return 2 * (distance / target - 1) / target
    if form == "upper":
        return 2 * error.relu()
    if form == "apart":
        short_of = (-error).relu()
        return torch.where(short_of > 0, -power * short_of.pow(power - 1), -short_of)
    weight = (expectile - (target > distance).to(distance.dtype)).abs()
    if huber_delta > 0:
        return weight * error.clamp(-huber_delta, huber_delta)
    return 2 * weight * error


def row_loss(
    distance: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, settings: RowLossSettings
) -> tuple[Tensor, RowLossStats]:
    """Returns the loss, differentiable by autograd, and its diagnostics; the others broadcast to ``distance``."""
    distance, target, count = _kept_rows(distance, target, mask, settings.form)
    weighted = terms(distance, target, settings)
    if weight is not None:
        weighted = weighted * weight
    loss = _sum(weighted, mask) / count
    with torch.no_grad():
        stats = [_sum(value, mask) / count for value in (distance, target, (distance < target).to(distance.dtype))]
    return loss, RowLossStats(*stats)


def _kept_rows(distance: Tensor, target: Tensor, mask: Tensor | None, form: str) -> tuple[Tensor, Tensor, Tensor | int]:
    """Returns distances and valid targets, 1 in rows that the mask leaves out, and the number of the others, at least
    1."""
    target = valid(target, form).expand_as(distance)
    if mask is None:
        return distance, target, distance.numel()
    kept = (mask != 0).expand_as(distance)
    return torch.where(kept, distance, 1.0), torch.where(kept, target, 1.0), kept.sum().clamp(min=1)


def _sum(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.sum() if mask is None else torch.where(mask != 0, values, 0.0).sum()


def loss_and_slopes(
    distance: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, settings: RowLossSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``loss, stats, slopes`` of backends/reference/row_loss.py."""
    loss, stats = row_loss(distance, target, weight, mask, settings)
    distance, target, count = _kept_rows(distance, target, mask, settings.form)
    slopes = slopes_of_terms(distance, target, settings) / count
    if weight is not None:
        slopes = slopes * weight
    if mask is not None:
        slopes = torch.where(mask != 0, slopes, 0.0)
    return loss, torch.stack(stats), slopes


# --- The kernels' outputs: empty tensors of the right shapes.


def row_loss_iqe_forward_outputs(
    x: Tensor, y: Tensor, max_weight: Tensor | None, target: Tensor, weight: Tensor | None, mask: Tensor | None,
    *settings,
) -> tuple[Tensor, ...]:  # fmt: skip
    size, reduction, *_ = settings
    rows, dim = x.shape
    loss, stats, slopes = row_loss_mrn_forward_outputs(x, y, target, weight, mask)
    ends = x.new_empty(rows, dim // size, (2 * size + 7) // 8, dtype=torch.uint8)
    return loss, stats, slopes, ends, *kept_of_reduction(slopes, reduction)


def row_loss_iqe_backward_outputs(
    grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor, max_weight: Tensor | None,
    like: Tensor, *iqe,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    return iqe_backward_outputs(slopes, ends, largest, spread, max_weight, *iqe, max_weight is not None, like)


def row_loss_mrn_forward_outputs(
    x: Tensor, y: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor]:
    return empty(x), empty(x, 3), empty(x, x.shape[0])


def row_loss_mrn_backward_outputs(
    grad_loss: Tensor, slopes: Tensor, x: Tensor, y: Tensor, *mrn
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y)

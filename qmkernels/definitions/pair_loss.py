"""The pairwise losses as functions of a matrix of distances, in plain PyTorch: the definition of the op ``pair_loss``.

d (..., N, M) are distances from states i to goals j; j = i + offset is the match of i. Leading dimensions are an
ensemble, over which everything is averaged. The formulas are in losses/: contrastive.py, linex.py, tmd_critic.py,
metric_contrastive.py and coulomb_repulsion.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments.pair_loss import SOFTMAXES, PairLossSettings, PairLossStats
from .shapes import empty

# Added to distances before their logarithm.
EPS = 1e-6


class Softmaxes(NamedTuple):
    """Per softmax, (..., S): the matching logit, the largest logit, the log of the sum of exponentials relative to the
    largest, the sum of the logits that are not left out, and their number.

    The log-sum-exp is largest + log_sum. They stay separate because float32 keeps no digit of log_sum next to 1e9; a
    logit is compared with the largest first.
    """

    positive: Tensor
    largest: Tensor
    log_sum: Tensor
    total: Tensor
    count: Tensor | int  # one number for all, or each softmax's


class Contrast(NamedTuple):
    """A contrastive term and its diagnostics."""

    loss: Tensor
    positive: Tensor
    negative: Tensor
    logsumexp: Tensor
    accuracy: Tensor


def matching(matrix: Tensor, first: int, dim: int) -> Tensor:
    """Returns, for each row or column k of a matrix (..., N, M), the entry ``first`` + k along ``dim``, the other
    dimension, or 0 if there is none."""
    kept = -1 if dim == -2 else -2
    place = first + torch.arange(matrix.shape[kept], device=matrix.device)
    exists = (place >= 0) & (place < matrix.shape[dim])
    place = place.clamp(0, matrix.shape[dim] - 1).unsqueeze(dim)
    entries = matrix.gather(dim, place.expand(*matrix.shape[:-2], *place.shape)).squeeze(dim)
    return torch.where(exists, entries, 0.0)


def left_out(of_rows: Tensor, of_columns: Tensor, window: int, offset: int) -> Tensor:
    """Returns which pairs, (..., N, M), softmaxes leave out: those of places that differ by at most ``window``, given
    the places of each row's match, (..., N), and of the columns, (..., M), but not the matches, row + offset."""
    near = (of_rows.unsqueeze(-1) - of_columns.unsqueeze(-2)).abs() <= window
    near.diagonal(offset=offset, dim1=-2, dim2=-1).fill_(False)
    return near


def over(logits: Tensor, dim: int, near: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns largest, log_sum and total of the softmaxes along ``dim``, without the pairs ``near``; largest is not
    differentiable."""
    total = (logits if near is None else logits.masked_fill(near, 0.0)).sum(dim=dim)
    if near is not None:
        logits = logits.masked_fill(near, -torch.inf)
    largest = logits.detach().amax(dim=dim)
    log_sum = (logits - _finite(largest).unsqueeze(dim)).logsumexp(dim=dim)
    return largest, log_sum, total


def counts(near: Tensor | None, dim: int, size: int) -> Tensor | int:
    """Returns how many of ``size`` logits along ``dim`` are not left out."""
    return size if near is None else size - near.sum(dim=dim)


def together(largest: Tensor, log_sum: Tensor, total: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Combines the results of `over` for parts of the logits, which lie along ``dim``."""
    whole = largest.amax(dim=dim)
    below = _finite(largest) - _finite(whole).unsqueeze(dim)
    return whole, (log_sum + below).logsumexp(dim=dim), total.sum(dim=dim)


def _finite(largest: Tensor) -> Tensor:
    """Replaces infinities by the largest numbers, so that no exponential is of infinity - infinity."""
    highest = torch.finfo(largest.dtype).max
    return largest.clamp(-highest, highest)


def softplus_over_goals(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the results of `over`, with the sum of softplus in place of log_sum."""
    detached = logits.detach()
    return detached.amax(dim=-1), functional.softplus(logits).sum(dim=-1), detached.sum(dim=-1)


def contrast(softmaxes: Softmaxes, logsumexp_weight: float, smoothing: float = 0.0) -> Contrast:
    """Returns the softmaxes' mean cross-entropy with the matches."""
    positive, largest, log_sum, total, count = softmaxes
    logsumexp = largest + log_sum
    loss = (largest - positive + log_sum).mean()
    if logsumexp_weight:
        loss = loss + logsumexp_weight * logsumexp.square().mean()
    if smoothing:
        loss = loss + smoothing * lead(positive, total, count)
    return _with_diagnostics(loss, softmaxes, logsumexp)


def lead(positive: Tensor, total: Tensor, count: Tensor | int) -> Tensor:
    """Returns by how much the softmaxes' matching logits exceed the mean of their others, 0 where there are no others.

    That, times the smoothing, is what smoothed targets add to a cross-entropy.
    """
    if isinstance(count, Tensor):
        exceeds = positive - (total - positive) / (count - 1).clamp(min=1)
        return torch.where(count > 1, exceeds, 0.0).mean()
    return (positive - (total - positive) / (count - 1)).mean() if count > 1 else positive.new_zeros(())


def _with_diagnostics(loss: Tensor, softmaxes: Softmaxes, logsumexp: Tensor) -> Contrast:
    positive, largest, _, total, count = softmaxes
    with torch.no_grad():
        if isinstance(count, Tensor):
            negative = (total - positive).sum() / (count - 1).sum().clamp(min=1)
        else:
            negative = (total - positive).mean() / max(1, count - 1)
        accuracy = (positive >= largest).to(loss.dtype).mean()
        return Contrast(loss, positive.mean(), negative, logsumexp.mean(), accuracy)


def contrast_of_sides(sides: list[Softmaxes], logsumexp_weight: float, smoothing: float = 0.0) -> Contrast:
    """Returns the mean over one or both directions."""
    parts = [contrast(side, logsumexp_weight, smoothing) for side in sides]
    return parts[0] if len(parts) == 1 else Contrast(*(torch.stack(part).mean() for part in zip(*parts, strict=True)))


def contrast_of_sigmoids(rows: Softmaxes) -> Contrast:
    """Returns the binary cross-entropy; ``rows.log_sum`` holds sums of softplus."""
    # softplus(-l) = softplus(l) - l
    loss = (rows.log_sum - rows.positive).mean() / rows.count
    return _with_diagnostics(loss, rows, torch.zeros_like(rows.largest))


def divergence(distance: Tensor, after: Tensor, log_discount: Tensor | float, clip: float) -> Tensor:
    """Returns discount * exp(delta) - distance where delta = distance - after is at most ``clip``, else delta."""
    delta = distance - after
    is_clipped = delta > clip
    grown = torch.exp(torch.where(is_clipped, clip, delta) + log_discount) - distance
    return torch.where(is_clipped, delta, grown)


def log_distance(distance: Tensor) -> Tensor:
    return (distance + EPS).log()


def energy(distance: Tensor, eps: float, offset: int) -> tuple[Tensor, Tensor]:
    """Returns, for each row of a matrix (..., N, M), the means of 1 / (distance + eps) and of the distance over the
    pairs that do not match; 0 if there are none."""
    count, columns = distance.shape[-2:]
    is_match = torch.ones(count, columns, dtype=torch.bool, device=distance.device).tril(offset).triu(offset)
    others = max(1, columns - 1)
    inverse = (distance.masked_fill(is_match, 1.0) + eps).reciprocal().masked_fill(is_match, 0.0)
    return inverse.sum(dim=-1) / others, distance.detach().masked_fill(is_match, 0.0).sum(dim=-1) / others


def pair_loss(
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    settings: PairLossSettings,
    places: Tensor | None = None,
) -> tuple[Tensor, PairLossStats, Tensor, Tensor]:
    """Returns the loss, its diagnostics, and largest and log_sum of the softmaxes over rows (2, ..., N) and over
    matching columns (2, ..., N), empty without such softmaxes.

    ``after`` are distances (..., N, M) after a step, without gradient; ``log_discounts`` are one per row, (..., N).
    ``places`` are whole numbers, one per column, (..., M), for softmaxes: see `left_out`.
    """
    *_, count, columns = distance.shape
    length = distance.diagonal(offset=settings.offset, dim1=-2, dim2=-1)
    zero = distance.new_zeros(())
    stats = dict.fromkeys(PairLossStats._fields, zero)
    stats["length"] = length.detach().mean()
    row_sums = column_sums = None
    loss = zero
    if settings.kind in (*SOFTMAXES, "sigmoid"):
        logits, positive, sides = -settings.scale * distance, -settings.scale * length, []
        matched = slice(settings.offset, settings.offset + count)
        near = None if places is None else left_out(places[..., matched], places, settings.window, settings.offset)
        if settings.kind == "sigmoid":
            term = contrast_of_sigmoids(Softmaxes(positive, *softplus_over_goals(logits), columns))
        else:
            if settings.kind != "backward":
                sides.append(Softmaxes(positive, *over(logits, -1, near), counts(near, -1, columns)))
                row_sums = torch.stack([sides[-1].largest, sides[-1].log_sum])
            if settings.kind != "forward":
                of_matches = None if near is None else near[..., matched]
                of_column = over(logits[..., matched], -2, of_matches)
                sides.append(Softmaxes(positive, *of_column, counts(of_matches, -2, count)))
                column_sums = torch.stack([sides[-1].largest, sides[-1].log_sum])
            term = contrast_of_sides(sides, settings.logsumexp_weight)
        loss = term.loss
        stats.update(
            contrastive=term.loss.detach(), positive=term.positive, negative=term.negative,
            logsumexp=term.logsumexp, accuracy=term.accuracy,
        )  # fmt: skip
    elif settings.kind == "repulsion":
        logs = log_distance(distance)
        others = logs.sum(dim=-1) - logs.diagonal(offset=settings.offset, dim1=-2, dim2=-1)
        steps, repulsion = (length - settings.step).square().mean(), -others.mean() / max(1, columns - 1)
        loss = steps + settings.repulsion_weight * repulsion
        stats.update(steps=steps.detach(), repulsion=repulsion.detach())
    elif settings.kind == "coulomb":
        loss, apart = (value.mean() for value in energy(distance, settings.eps, settings.offset))
        stats.update(repulsion=loss.detach(), apart=apart)
    if after is not None:
        log_discount = settings.log_discount if log_discounts is None else log_discounts.unsqueeze(-1)
        terms = divergence(distance, after.detach(), log_discount, settings.clip)
        everywhere, diagonal = terms.mean(), terms.diagonal(offset=settings.offset, dim1=-2, dim2=-1).mean()
        linex = everywhere + settings.diagonal_weight * (diagonal - everywhere)
        loss = loss + settings.linex_weight * linex
        stats.update(
            linex=linex.detach(), everywhere=everywhere.detach(), diagonal=diagonal.detach(),
            difference=(distance - after).detach().mean(),
        )  # fmt: skip
    return loss, PairLossStats(*stats.values()), row_sums, column_sums


def gradient(
    grad_loss: Tensor,
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    row_sums: Tensor,
    column_sums: Tensor,
    settings: PairLossSettings,
    places: Tensor | None = None,
) -> Tensor:
    """Returns grad_loss times the derivative of the loss by ``distance``, given `pair_loss`'s sums of the softmaxes."""
    *_, count, columns = distance.shape
    num_rows = distance.shape[:-1].numel()
    grad = torch.zeros_like(distance)
    grad_of_matches = grad.diagonal(offset=settings.offset, dim1=-2, dim2=-1)
    if settings.kind in SOFTMAXES:
        logits, matched = -settings.scale * distance, slice(settings.offset, settings.offset + count)
        share = -settings.scale / num_rows / (2 if settings.kind == "symmetric" else 1)
        if settings.kind != "backward":
            grad += share * _softmax_slope(logits, row_sums.unsqueeze(-1), settings)
            grad_of_matches -= share
        if settings.kind != "forward":
            grad[..., matched] += share * _softmax_slope(logits[..., matched], column_sums.unsqueeze(-2), settings)
            grad_of_matches -= share
        if places is not None:
            grad.masked_fill_(left_out(places[..., matched], places, settings.window, settings.offset), 0.0)
    elif settings.kind == "sigmoid":
        share = -settings.scale / (num_rows * columns)
        grad += share * torch.sigmoid(-settings.scale * distance)
        grad_of_matches -= share
    elif settings.kind == "repulsion":
        length = distance.diagonal(offset=settings.offset, dim1=-2, dim2=-1)
        grad -= settings.repulsion_weight / (num_rows * max(1, columns - 1)) / (distance + EPS)
        grad_of_matches.copy_(2 / num_rows * (length - settings.step))
    elif settings.kind == "coulomb":
        grad -= (distance + settings.eps).reciprocal().square() / (num_rows * max(1, columns - 1))
        grad_of_matches.zero_()
    if after is not None:
        log_discount = settings.log_discount if log_discounts is None else log_discounts.unsqueeze(-1)
        delta = distance - after
        slope = torch.where(delta > settings.clip, 1.0, torch.exp(delta.clamp(max=settings.clip) + log_discount) - 1)
        grad += settings.linex_weight * (1 - settings.diagonal_weight) / (num_rows * columns) * slope
        share = settings.linex_weight * settings.diagonal_weight / num_rows
        grad_of_matches += share * slope.diagonal(offset=settings.offset, dim1=-2, dim2=-1)
    return grad_loss * grad


def _softmax_slope(logits: Tensor, sums: Tensor, settings: PairLossSettings) -> Tensor:
    """Returns the derivative of the log-sum-exps, and of their weighted squares, by the logits."""
    largest, log_sum = sums
    return (1 + 2 * settings.logsumexp_weight * (largest + log_sum)) * (logits - largest - log_sum).exp()


def pair_loss_forward_outputs(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, places: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind, sums = settings[0], (2, *distance.shape[:2])
    return (
        empty(distance),
        empty(distance, len(PairLossStats._fields)),
        distance.new_empty(*sums) if kind in ("forward", "symmetric") else None,
        distance.new_empty(*sums) if kind in ("backward", "symmetric") else None,
    )


def pair_loss_backward_outputs(grad_loss: Tensor, distance: Tensor, *others) -> Tensor:
    return torch.empty_like(distance)

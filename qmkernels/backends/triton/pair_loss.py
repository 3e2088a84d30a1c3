"""Losses over a matrix of distances in Triton: the functions of backends/reference/pair_loss.py, in the same order.

A program has a tile of one matrix. In forward it writes the results of `over` for each of its rows and columns, as far
as the form needs them, and two sums per row for LINEX, which torch combines. In backward it writes its part of the
gradient. Bound by memory: forward reads one or two matrices, backward reads the same and writes one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.pair_loss import KINDS, PairLossSettings, PairLossStats
from ...definitions import pair_loss as definition
from ...definitions.pair_loss import (
    EPS,
    Softmaxes,
    contrast_of_sides,
    contrast_of_sigmoids,
    divergence,
    together,
)

ROWS, COLUMNS = 32, 128
EPSILON = tl.constexpr(EPS)


@triton.jit
def _softplus(logits):
    return tl.maximum(logits, 0) + tl.log(1 + tl.exp(-tl.abs(logits)))


@triton.jit
def _grown(distance, after, log_discount, CLIP: tl.constexpr):
    """Returns delta, and discount * exp(min(delta, clip))."""
    delta = distance - after
    return delta, tl.exp(tl.where(delta > CLIP, CLIP, delta) + log_discount)


@triton.jit
def _over(logits, AXIS: tl.constexpr):
    """Returns the largest logit, and the log of the sum of exponentials relative to it."""
    most = tl.max(logits, axis=AXIS)
    shift = tl.where(tl.abs(most) == float("inf"), 0.0, most)
    log_sum = tl.log(tl.sum(tl.exp(logits - tl.expand_dims(shift, AXIS)), axis=AXIS))
    # The maximum ignores NaN, the sum does not.
    return tl.where(log_sum == log_sum, most, log_sum), log_sum


@triton.jit
def _softmax_slope(logits, largest, log_sum, LOGSUMEXP_WEIGHT: tl.constexpr):
    return (1 + (largest + log_sum) * (2 * LOGSUMEXP_WEIGHT)) * tl.exp(logits - largest - log_sum)


@triton.jit
def _left_out(places_ptr, sample, row, column, num_rows, num_columns, offset, window):
    """Returns which pairs of a tile, (ROWS, COLUMNS), softmaxes leave out: definitions.pair_loss.left_out."""
    here = places_ptr + sample * num_columns
    of_match = tl.load(here + row + offset, mask=row < num_rows, other=0)[:, None]
    gap = tl.load(here + column, mask=column < num_columns, other=0)[None, :] - of_match
    return (tl.abs(gap) <= window) & ((column - offset)[None, :] != row[:, None])


@triton.jit
def pair_loss_forward_kernel(
    distance_ptr,  # (B, N, M)
    after_ptr,  # (B, N, M), None without the LINEX term
    log_discounts_ptr,  # (B, N), None for one number
    places_ptr,  # int32 (B, M), None if no pair is left out
    of_rows_ptr,  # (3 or 4, tiles across, B, N): largest; log_sum, or sum of the kind's terms; total; number
    of_columns_ptr,  # (3 or 4, tiles down, B, M): largest, log_sum, total; number, with places
    of_linex_ptr,  # (2, tiles across, B, N): sums of divergences and of differences
    batch,
    num_rows,
    num_columns,
    offset,
    window,
    KIND: tl.constexpr,
    SCALE: tl.constexpr,
    CLIP: tl.constexpr,
    LOG_DISCOUNT: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype: tl.constexpr = distance_ptr.dtype.element_ty
    sample = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    at_row = sample * num_rows + row
    mask = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    here = at_row[:, None] * num_columns + column[None, :]
    if places_ptr is not None:
        mask = mask & ~_left_out(places_ptr, sample, row, column, num_rows, num_columns, offset, window)
    distance = tl.load(distance_ptr + here, mask=mask, other=0)
    logits = distance * (-SCALE)
    below = tl.where(mask, logits, float("-inf"))

    rows_in_all = batch.to(tl.int64) * num_rows
    line = tl.program_id(1) * rows_in_all + at_row
    part = tl.num_programs(1) * rows_in_all
    if KIND == "repulsion":
        logs = tl.where(mask, tl.log(distance + EPSILON), 0.0)
        tl.store(of_rows_ptr + part + line, tl.sum(logs, axis=1), mask=row < num_rows)
    elif KIND == "coulomb":
        is_other = mask & ((column - offset)[None, :] != row[:, None])
        inverses = tl.sum(tl.where(is_other, 1 / (distance + EPS), 0.0), axis=1)
        tl.store(of_rows_ptr + part + line, inverses, mask=row < num_rows)
        tl.store(of_rows_ptr + 2 * part + line, tl.sum(tl.where(is_other, distance, 0.0), axis=1), mask=row < num_rows)
    elif KIND != "none":
        largest, terms = _over(below, 1)
        if KIND == "sigmoid":
            terms = tl.sum(tl.where(mask, _softplus(logits), 0.0), axis=1)
        tl.store(of_rows_ptr + line, largest, mask=row < num_rows)
        tl.store(of_rows_ptr + part + line, terms, mask=row < num_rows)
        tl.store(of_rows_ptr + 2 * part + line, tl.sum(logits, axis=1), mask=row < num_rows)
        if places_ptr is not None:
            tl.store(of_rows_ptr + 3 * part + line, tl.sum(mask.to(dtype), axis=1), mask=row < num_rows)
    if KIND == "backward" or KIND == "symmetric":
        columns_in_all = batch.to(tl.int64) * num_columns
        column_line = tl.program_id(0) * columns_in_all + sample * num_columns + column
        column_part = tl.num_programs(0) * columns_in_all
        exists = column < num_columns
        largest, log_sum = _over(below, 0)
        tl.store(of_columns_ptr + column_line, largest, mask=exists)
        tl.store(of_columns_ptr + column_part + column_line, log_sum, mask=exists)
        tl.store(of_columns_ptr + 2 * column_part + column_line, tl.sum(logits, axis=0), mask=exists)
        if places_ptr is not None:
            tl.store(of_columns_ptr + 3 * column_part + column_line, tl.sum(mask.to(dtype), axis=0), mask=exists)
    if after_ptr is not None:
        after = tl.load(after_ptr + here, mask=mask, other=0)
        discount = tl.zeros([ROWS, 1], dtype) + LOG_DISCOUNT
        if log_discounts_ptr is not None:
            discount = tl.load(log_discounts_ptr + at_row, mask=row < num_rows, other=0)[:, None]
        delta, grown = _grown(distance, after, discount, CLIP)
        terms = tl.where(mask, tl.where(delta > CLIP, delta, grown - distance), 0.0)
        tl.store(of_linex_ptr + line, tl.sum(terms, axis=1), mask=row < num_rows)
        tl.store(of_linex_ptr + part + line, tl.sum(delta, axis=1), mask=row < num_rows)


@triton.jit
def pair_loss_backward_kernel(
    grad_loss_ptr,  # ()
    distance_ptr,  # (B, N, M)
    after_ptr,  # (B, N, M), None without the LINEX term
    log_discounts_ptr,  # (B, N), None for one number
    places_ptr,  # int32 (B, M), None if no pair is left out
    row_sums_ptr,  # (2, B, N)
    column_sums_ptr,  # (2, B, N)
    grad_distance_ptr,  # (B, N, M)
    num_rows,
    num_columns,
    offset,
    window,
    all_rows,  # B * N
    KIND: tl.constexpr,
    SCALE: tl.constexpr,
    LOGSUMEXP_WEIGHT: tl.constexpr,
    LINEX_WEIGHT: tl.constexpr,
    CLIP: tl.constexpr,
    DIAGONAL_WEIGHT: tl.constexpr,
    LOG_DISCOUNT: tl.constexpr,
    STEP: tl.constexpr,
    REPULSION_WEIGHT: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype: tl.constexpr = distance_ptr.dtype.element_ty
    sample = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    at_row = sample * num_rows + row
    mask = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    here = at_row[:, None] * num_columns + column[None, :]
    match = (column - offset)[None, :] == row[:, None]
    distance = tl.load(distance_ptr + here, mask=mask, other=1)
    logits = distance * (-SCALE)
    grad = tl.zeros([ROWS, COLUMNS], dtype)
    of_row = 1 / all_rows.to(dtype)
    of_pair = of_row / num_columns.to(dtype)
    of_softmax = of_row * (-SCALE / 2 if KIND == "symmetric" else -SCALE)
    if KIND == "forward" or KIND == "symmetric":
        largest = tl.load(row_sums_ptr + at_row, mask=row < num_rows, other=0)[:, None]
        log_sum = tl.load(row_sums_ptr + all_rows + at_row, mask=row < num_rows, other=0)[:, None]
        grad += of_softmax * _softmax_slope(logits, largest, log_sum, LOGSUMEXP_WEIGHT)
        grad -= tl.where(match, of_softmax, 0.0)
    if KIND == "backward" or KIND == "symmetric":
        place = column - offset
        has_match = (place >= 0) & (place < num_rows)
        at_match = sample * num_rows + place
        largest = tl.load(column_sums_ptr + at_match, mask=has_match, other=0)[None, :]
        log_sum = tl.load(column_sums_ptr + all_rows + at_match, mask=has_match, other=0)[None, :]
        slope = _softmax_slope(logits, largest, log_sum, LOGSUMEXP_WEIGHT)
        grad += tl.where(has_match[None, :], of_softmax * slope, 0.0)
        grad -= tl.where(match, of_softmax, 0.0)
    if places_ptr is not None:
        near = _left_out(places_ptr, sample, row, column, num_rows, num_columns, offset, window)
        grad = tl.where(near, 0.0, grad)
    if KIND == "sigmoid":
        e = tl.exp(-tl.abs(logits))
        grad += of_pair * (-SCALE) * (tl.where(logits < 0, e, 1.0) / (1 + e) - tl.where(match, 1.0, 0.0))
    if KIND == "repulsion":
        others = tl.maximum(num_columns - 1, 1).to(dtype)
        of_others = of_row * (-REPULSION_WEIGHT) / (others * (distance + EPSILON))
        grad += tl.where(match, of_row * 2 * (distance - STEP), of_others)
    if KIND == "coulomb":
        inverse = 1 / (distance + EPS)
        others = tl.maximum(num_columns - 1, 1).to(dtype)
        grad -= tl.where(match, 0.0, of_row / others * inverse * inverse)
    if after_ptr is not None:
        after = tl.load(after_ptr + here, mask=mask, other=0)
        discount = tl.zeros([ROWS, 1], dtype) + LOG_DISCOUNT
        if log_discounts_ptr is not None:
            discount = tl.load(log_discounts_ptr + at_row, mask=row < num_rows, other=0)[:, None]
        delta, grown = _grown(distance, after, discount, CLIP)
        slope = tl.where(delta > CLIP, 1.0, grown - 1)
        everywhere = of_pair * (LINEX_WEIGHT * (1 - DIAGONAL_WEIGHT))
        grad += (everywhere + tl.where(match, of_row * (LINEX_WEIGHT * DIAGONAL_WEIGHT), 0.0)) * slope
    grad *= tl.load(grad_loss_ptr)
    tl.store(grad_distance_ptr + here, grad.to(dtype), mask=mask)


# For both kernels. A logit must be rounded, like the largest, before that is subtracted. Inside a fused multiply-add it
# would not be, which changes the exponent of a logit of 1e9 by several units.
_LAUNCH = {"ROWS": ROWS, "COLUMNS": COLUMNS, "enable_fp_fusion": False}


def _forward_constants(settings: PairLossSettings) -> dict:
    """Returns the forward kernel's constants and compile options."""
    names = ("kind", "scale", "clip", "log_discount", "eps")
    return {name.upper(): getattr(settings, name) for name in names} | _LAUNCH


def _backward_constants(settings: PairLossSettings) -> dict:
    """Returns those of the backward kernel."""
    constants = {name.upper(): value for name, value in settings._asdict().items() if name not in ("offset", "window")}
    return constants | _LAUNCH


def _grid(distance: Tensor) -> tuple[int, int, int]:
    batch, rows, columns = distance.shape
    return triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS), batch


def pair_loss_forward(
    distance: Tensor, after: Tensor | None, log_discounts: Tensor | None, places: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = PairLossSettings(*settings)
    batch, rows, columns = distance.shape
    down, across, _ = grid = _grid(distance)
    numbers = 3 if places is None else 4
    of_rows = distance.new_empty(numbers, across, batch, rows)
    of_columns = distance.new_empty(numbers, down, batch, columns if settings.kind in ("backward", "symmetric") else 0)
    linex_sums = distance.new_empty(2, across, batch, rows if after is not None else 0)
    with torch.cuda.device_of(distance):
        pair_loss_forward_kernel[grid](
            distance, after, log_discounts, places, of_rows, of_columns, linex_sums, batch, rows, columns,
            settings.offset, settings.window, **_forward_constants(settings),
        )  # fmt: skip
    length = distance.diagonal(offset=settings.offset, dim1=1, dim2=2)
    loss, row_sums, column_sums = distance.new_zeros(()), None, None
    stats = PairLossStats(*(loss,) * len(PairLossStats._fields))._replace(length=length.mean())
    if settings.kind == "repulsion":
        others = of_rows[1].sum(dim=0) - (length + EPS).log()
        steps, repulsion = (length - settings.step).square().mean(), -others.mean() / max(1, columns - 1)
        loss = steps + settings.repulsion_weight * repulsion
        stats = stats._replace(steps=steps, repulsion=repulsion)
    elif settings.kind == "coulomb":
        loss, apart = (sums.sum(dim=0).mean() / max(1, columns - 1) for sums in of_rows[1:])
        stats = stats._replace(repulsion=loss, apart=apart)
    elif settings.kind != "none":
        positive, sides = -settings.scale * length, []
        if settings.kind == "sigmoid":
            largest, terms, total = of_rows
            term = contrast_of_sigmoids(
                Softmaxes(positive, largest.amax(dim=0), terms.sum(dim=0), total.sum(dim=0), columns)
            )
        else:
            if settings.kind != "backward":
                sides.append(Softmaxes(positive, *together(*of_rows[:3], dim=0), _count(of_rows, columns)))
                row_sums = torch.stack(sides[-1][1:3])
            if settings.kind != "forward":
                of_matches = of_columns[..., settings.offset : settings.offset + rows]
                sides.append(Softmaxes(positive, *together(*of_matches[:3], dim=0), _count(of_matches, rows)))
                column_sums = torch.stack(sides[-1][1:3])
            term = contrast_of_sides(sides, settings.logsumexp_weight)
        loss = term.loss
        stats = stats._replace(
            contrastive=loss, positive=term.positive, negative=term.negative, logsumexp=term.logsumexp,
            accuracy=term.accuracy,
        )  # fmt: skip
    if after is not None:
        everywhere, difference = (sums.sum(dim=0).mean() / columns for sums in linex_sums)
        discount = settings.log_discount if log_discounts is None else log_discounts
        following = after.diagonal(offset=settings.offset, dim1=1, dim2=2)
        diagonal = divergence(length, following, discount, settings.clip).mean()
        linex = everywhere + settings.diagonal_weight * (diagonal - everywhere)
        loss = loss + settings.linex_weight * linex
        stats = stats._replace(linex=linex, everywhere=everywhere, diagonal=diagonal, difference=difference)
    return loss, torch.stack(stats), row_sums, column_sums


def _count(of_softmaxes: Tensor, size: int) -> Tensor | int:
    """Returns how many logits softmaxes have, given what forward's tiles stored of them."""
    return size if len(of_softmaxes) == 3 else of_softmaxes[3].sum(dim=0)


def pair_loss_backward(
    grad_loss: Tensor,
    distance: Tensor,
    after: Tensor | None,
    log_discounts: Tensor | None,
    places: Tensor | None,
    row_sums: Tensor,
    column_sums: Tensor,
    *settings,
) -> Tensor:
    settings = PairLossSettings(*settings)
    batch, rows, columns = distance.shape
    grad_distance = definition.pair_loss_backward_outputs(grad_loss, distance)
    with torch.cuda.device_of(distance):
        pair_loss_backward_kernel[_grid(distance)](
            grad_loss, distance, after, log_discounts, places, row_sums, column_sums, grad_distance, rows, columns,
            settings.offset, settings.window, batch * rows, **_backward_constants(settings),
        )  # fmt: skip
    return grad_distance


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    number, alone = {"log_discounts_ptr": None}, {"after_ptr": None, "log_discounts_ptr": None}
    all_pairs, near = {"places_ptr": None}, {"places_ptr": torch.int32}
    for kind, missing in (
        *((kind, all_pairs) for kind in KINDS), ("backward", number | all_pairs), ("symmetric", alone | near)
    ):  # fmt: skip
        settings = PairLossSettings(kind, 0.05, 0.1, log_discount=-0.01)
        yield pair_loss_forward_kernel, _forward_constants(settings) | missing
        yield pair_loss_backward_kernel, _backward_constants(settings) | missing

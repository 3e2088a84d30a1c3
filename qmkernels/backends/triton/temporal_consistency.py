"""iQRL's temporal consistency in Triton: the functions of backends/reference/temporal_consistency.py, in its order.

Precision: arithmetic in the input's dtype, float32 for half precision, sums over rows in double; no atomics, so the
same input gives the same bits.

Cost: forward reads predicted and target once and keeps two numbers per row; one program sums over rows. Backward reads
both again and writes the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import temporal_consistency as definition

TILE_VALUES = 1024


@triton.jit
def temporal_consistency_forward_kernel(
    predicted_ptr,  # (num_rows, size)
    target_ptr,  # (num_rows, size)
    mask_ptr,  # (num_rows), or None
    step_weights_ptr,  # (num_rows / batch)
    cosines_ptr,  # (num_rows)
    slopes_ptr,  # (2, num_rows)
    num_rows,
    batch,
    size,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK: tl.constexpr,  # values of a row at a time
):
    dtype: tl.constexpr = slopes_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    dot = tl.zeros((ROWS, BLOCK), dtype)
    squares = tl.zeros((ROWS, BLOCK), dtype)
    target_squares = tl.zeros((ROWS, BLOCK), dtype)
    for first in range(0, size, BLOCK):
        place = first + tl.arange(0, BLOCK)
        here = row[:, None] * size + place[None, :]
        exists = is_row[:, None] & (place < size)[None, :]
        predicted = tl.load(predicted_ptr + here, mask=exists, other=0).to(dtype)
        target = tl.load(target_ptr + here, mask=exists, other=0).to(dtype)
        dot += predicted * target
        squares += predicted * predicted
        target_squares += target * target
    norm = tl.sqrt(tl.sum(squares, axis=1))
    target_norm = tl.sqrt(tl.sum(target_squares, axis=1))
    eps = tl.full((ROWS,), EPS, dtype)
    length = tl.where(norm < eps, eps, norm)  # NaN stays
    lengths = length * tl.where(target_norm < eps, eps, target_norm)
    cosine = tl.sum(dot, axis=1) / lengths
    weight = tl.load(step_weights_ptr + row // batch, mask=is_row, other=0) / batch
    if mask_ptr is not None:
        weight *= tl.load(mask_ptr + row, mask=is_row, other=0)
    by_predicted = tl.where(norm == 0, 0.0, weight * cosine / (length * tl.where(norm == 0, 1.0, norm)))
    tl.store(cosines_ptr + row, cosine, mask=is_row)
    tl.store(slopes_ptr + row, -weight / lengths, mask=is_row)
    tl.store(slopes_ptr + num_rows + row, by_predicted, mask=is_row)


@triton.jit
def temporal_consistency_sums_kernel(
    cosines_ptr,  # (steps, batch)
    mask_ptr,  # (steps, batch), or None
    step_weights_ptr,  # (steps)
    loss_ptr,  # ()
    similarity_ptr,  # (steps)
    steps,
    batch,
    BLOCK: tl.constexpr,  # rows at a time
):
    total = tl.zeros((), tl.float64)
    for step in range(0, steps):
        cosine_sum = tl.zeros((BLOCK,), tl.float64)
        loss_sum = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, batch, BLOCK):
            place = first + tl.arange(0, BLOCK)
            exists = place < batch
            cosine = tl.load(cosines_ptr + place, mask=exists, other=0).to(tl.float64)
            losses = 1 - cosine
            if mask_ptr is not None:
                losses *= tl.load(mask_ptr + place, mask=exists, other=0)
            cosine_sum += cosine
            loss_sum += tl.where(exists, losses, 0.0)
        tl.store(similarity_ptr + step, tl.sum(cosine_sum) / batch)
        total += tl.load(step_weights_ptr + step) * (tl.sum(loss_sum) / batch)
        cosines_ptr += batch
        if mask_ptr is not None:
            mask_ptr += batch
    tl.store(loss_ptr, total)


@triton.jit
def temporal_consistency_backward_kernel(
    grad_loss_ptr,  # ()
    slopes_ptr,  # (2, num_rows)
    predicted_ptr,  # (num_rows, size)
    target_ptr,  # (num_rows, size)
    grad_predicted_ptr,  # (num_rows, size)
    num_rows,
    size,
    ROWS: tl.constexpr,  # rows per program
    BLOCK: tl.constexpr,  # values of a row per program
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < num_rows
    here = row[:, None] * size + place[None, :]
    exists = is_row[:, None] & (place < size)[None, :]
    grad_loss = tl.load(grad_loss_ptr)
    by_target = grad_loss * tl.load(slopes_ptr + row, mask=is_row, other=0)
    by_predicted = grad_loss * tl.load(slopes_ptr + num_rows + row, mask=is_row, other=0)
    predicted = tl.load(predicted_ptr + here, mask=exists, other=0).to(grad_loss.dtype)
    target = tl.load(target_ptr + here, mask=exists, other=0).to(grad_loss.dtype)
    grad = by_target[:, None] * target + by_predicted[:, None] * predicted
    tl.store(grad_predicted_ptr + here, grad, mask=exists)


def _tile(size: int) -> dict[str, int]:
    """Returns the rows, and values of a row, that a program holds at once."""
    block = min(triton.next_power_of_2(size), TILE_VALUES)
    return {"ROWS": TILE_VALUES // block, "BLOCK": block}


def temporal_consistency_forward(
    predicted: Tensor, target: Tensor, mask: Tensor | None, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch, size = predicted.shape
    loss, similarity, slopes = definition.temporal_consistency_forward_outputs(predicted, target, mask, discount)
    cosines = slopes.new_empty(steps, batch)
    weights, constants = definition.step_weights(discount, cosines), _tile(size)
    with torch.cuda.device_of(predicted):
        temporal_consistency_forward_kernel[(triton.cdiv(steps * batch, constants["ROWS"]),)](
            predicted,
            target,
            mask,
            weights,
            cosines,
            slopes,
            steps * batch,
            batch,
            size,
            EPS=definition.EPS,
            **constants,
        )
        temporal_consistency_sums_kernel[(1,)](
            cosines, mask, weights, loss, similarity, steps, batch, BLOCK=min(triton.next_power_of_2(batch), 1024)
        )
    return loss, similarity, slopes


def temporal_consistency_backward(grad_loss: Tensor, slopes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    grad_predicted = definition.temporal_consistency_backward_outputs(grad_loss, slopes, predicted, target)
    num_rows, size = slopes.numel() // 2, predicted.shape[-1]
    constants = _tile(size)
    with torch.cuda.device_of(predicted):
        temporal_consistency_backward_kernel[
            (triton.cdiv(num_rows, constants["ROWS"]), triton.cdiv(size, constants["BLOCK"]))
        ](grad_loss, slopes, predicted, target, grad_predicted, num_rows, size, **constants)
    return grad_predicted


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for size, block in ((5, 16), (512, 256), (3000, 256)):
        yield temporal_consistency_backward_kernel, _tile(size)
        for arguments in ({}, {"mask_ptr": None}):
            yield temporal_consistency_forward_kernel, {"EPS": definition.EPS} | _tile(size) | arguments
            yield temporal_consistency_sums_kernel, {"BLOCK": block} | arguments
    if dtype is torch.float32:
        arguments = dict.fromkeys(("predicted_ptr", "target_ptr", "grad_predicted_ptr"), torch.bfloat16) | _tile(512)
        yield temporal_consistency_backward_kernel, arguments
        yield temporal_consistency_forward_kernel, arguments | {"EPS": definition.EPS}

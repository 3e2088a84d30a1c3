"""METRA's loss in Triton: the functions of backends/reference/metra.py.

A tile holds whole rows, padded to a power of two, or for wide rows one part after another. Forward reads three tensors
and writes two numbers per row, plus two to scratch, which one program adds up. Backward reads three tensors and writes
two, or three if the skills need a gradient. Arithmetic in the input's dtype, float32 for half precision; sums over
rows in double.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import metra as definition

TILE_VALUES = 1024
SUM_BLOCK = 1024


@triton.jit
def _multiplier_of(log_multiplier_ptr):
    return tl.exp(tl.load(log_multiplier_ptr))


@triton.jit
def metra_forward_kernel(
    phi_ptr,  # (num_rows, dim)
    phi_next_ptr,  # (num_rows, dim)
    skill_ptr,  # (num_rows, dim)
    log_multiplier_ptr,  # ()
    reward_ptr,  # (num_rows)
    slopes_ptr,  # (num_rows)
    scratch_ptr,  # (2, num_rows): constraint, squared distance
    num_rows,
    dim,
    slack_ptr,  # (), a tensor, because an argument that is a number would be float32
    NORM: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_D: tl.constexpr,  # a power of two
):
    dtype: tl.constexpr = slopes_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < num_rows
    squares = tl.zeros((ROWS, BLOCK_D), dtype)
    rewards = tl.zeros((ROWS, BLOCK_D), dtype)
    for first in range(0, dim, BLOCK_D):
        column = first + tl.arange(0, BLOCK_D)
        at = row[:, None] * dim + column[None, :]
        mask = exists[:, None] & (column < dim)[None, :]
        phi = tl.load(phi_ptr + at, mask=mask, other=0).to(dtype)
        step = tl.load(phi_next_ptr + at, mask=mask, other=0).to(dtype) - phi
        squares += step * step
        rewards += step * tl.load(skill_ptr + at, mask=mask, other=0).to(dtype)
    squared = tl.sum(squares, axis=1)
    slope = 2 * _multiplier_of(log_multiplier_ptr) / num_rows
    if NORM == "mean":
        squared /= dim
        slope /= dim
    slack = tl.load(slack_ptr)
    room = 1 - squared
    has_slope = room <= slack
    tl.store(reward_ptr + row, tl.sum(rewards, axis=1), mask=exists)
    tl.store(slopes_ptr + row, tl.where(has_slope, slope, 0), mask=exists)
    tl.store(scratch_ptr + row, tl.where(has_slope | (room != room), room, slack), mask=exists)
    tl.store(scratch_ptr + num_rows + row, squared, mask=exists)


@triton.jit
def metra_sums_kernel(
    reward_ptr,  # (num_rows)
    scratch_ptr,  # (2, num_rows)
    log_multiplier_ptr,  # ()
    loss_ptr,  # ()
    stats_ptr,  # (3)
    num_rows,
    BLOCK: tl.constexpr,
):
    rewards = tl.zeros((BLOCK,), tl.float64)
    constraints = tl.zeros((BLOCK,), tl.float64)
    distances = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, num_rows, BLOCK):
        row = first + tl.arange(0, BLOCK).to(tl.int64)
        mask = row < num_rows
        rewards += tl.load(reward_ptr + row, mask=mask, other=0)
        constraints += tl.load(scratch_ptr + row, mask=mask, other=0)
        distances += tl.load(scratch_ptr + num_rows + row, mask=mask, other=0)
    constraint = tl.sum(constraints, axis=0) / num_rows
    multiplier = _multiplier_of(log_multiplier_ptr)
    reward = tl.sum(rewards, axis=0) / num_rows
    tl.store(loss_ptr, -reward - multiplier * constraint + tl.load(log_multiplier_ptr) * constraint)
    tl.store(stats_ptr, constraint)
    tl.store(stats_ptr + 1, multiplier)
    tl.store(stats_ptr + 2, tl.sum(distances, axis=0) / num_rows)


@triton.jit
def metra_backward_kernel(
    grad_loss_ptr,  # ()
    phi_ptr,  # (num_rows, dim)
    phi_next_ptr,  # (num_rows, dim)
    skill_ptr,  # (num_rows, dim)
    stats_ptr,  # (3)
    slopes_ptr,  # (num_rows)
    grad_phi_ptr,  # (num_rows, dim)
    grad_phi_next_ptr,  # (num_rows, dim)
    grad_skill_ptr,  # (num_rows, dim), or None
    grad_log_multiplier_ptr,  # ()
    num_rows,
    dim,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < num_rows
    grad_loss = tl.load(grad_loss_ptr)
    if tl.program_id(0) == 0:
        tl.store(grad_log_multiplier_ptr, grad_loss * tl.load(stats_ptr))
    share = grad_loss / num_rows
    slope = (grad_loss * tl.load(slopes_ptr + row, mask=exists, other=0))[:, None]
    for first in range(0, dim, BLOCK_D):
        column = first + tl.arange(0, BLOCK_D)
        at = row[:, None] * dim + column[None, :]
        mask = exists[:, None] & (column < dim)[None, :]
        phi = tl.load(phi_ptr + at, mask=mask, other=0).to(share.dtype)
        step = tl.load(phi_next_ptr + at, mask=mask, other=0).to(share.dtype) - phi
        of_next = slope * step - share * tl.load(skill_ptr + at, mask=mask, other=0).to(share.dtype)
        tl.store(grad_phi_ptr + at, -of_next, mask=mask)
        tl.store(grad_phi_next_ptr + at, of_next, mask=mask)
        if grad_skill_ptr is not None:
            tl.store(grad_skill_ptr + at, -share * step, mask=mask)


def _tile(dim: int) -> dict[str, int]:
    """Returns the rows and coordinates that a program takes at a time."""
    block_d = min(triton.next_power_of_2(dim), TILE_VALUES)
    return {"ROWS": TILE_VALUES // block_d, "BLOCK_D": block_d}


def metra_forward(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, slack: float, norm: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, reward, stats, slopes = definition.metra_forward_outputs(phi, phi_next, skill, log_multiplier, slack, norm)
    num_rows, dim = reward.numel(), phi.shape[-1]
    scratch, constants = slopes.new_empty(2, num_rows), _tile(dim)
    with torch.cuda.device_of(phi):
        metra_forward_kernel[(triton.cdiv(num_rows, constants["ROWS"]),)](
            phi, phi_next, skill, log_multiplier, reward, slopes, scratch, num_rows, dim, loss.new_full((), slack),
            NORM=norm, **constants,
        )  # fmt: skip
        metra_sums_kernel[(1,)](reward, scratch, log_multiplier, loss, stats, num_rows, BLOCK=SUM_BLOCK)
    return loss, reward, stats, slopes


def metra_backward(
    grad_loss: Tensor,
    phi: Tensor,
    phi_next: Tensor,
    skill: Tensor,
    stats: Tensor,
    slopes: Tensor,
    needs_skill: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = definition.metra_backward_outputs(grad_loss, phi, phi_next, skill, stats, slopes, needs_skill)
    grad_phi, grad_next, grad_skill, grad_log_multiplier = grads
    num_rows, dim = slopes.numel(), phi.shape[-1]
    constants = _tile(dim)
    with torch.cuda.device_of(phi):
        metra_backward_kernel[(triton.cdiv(num_rows, constants["ROWS"]),)](
            grad_loss, phi, phi_next, skill, stats, slopes, grad_phi, grad_next, grad_skill if needs_skill else None,
            grad_log_multiplier, num_rows, dim, **constants,
        )  # fmt: skip
    return grads


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    yield metra_sums_kernel, {"BLOCK": SUM_BLOCK}
    for dim, norm, sizes in ((1, "mean", {"num_rows": 1, "dim": 1}), (507, "mean", {}), (2048, "sum", {})):
        arguments = _tile(dim) | sizes
        yield metra_forward_kernel, arguments | {"NORM": norm}
        yield metra_backward_kernel, arguments
        yield metra_backward_kernel, arguments | {"grad_skill_ptr": None}
    if dtype is torch.float32:
        names = ("phi_ptr", "phi_next_ptr", "skill_ptr", "grad_phi_ptr", "grad_phi_next_ptr", "grad_skill_ptr")
        arguments = dict.fromkeys(names, torch.bfloat16) | _tile(32)
        yield metra_forward_kernel, arguments | {"NORM": "sum"}
        yield metra_backward_kernel, arguments

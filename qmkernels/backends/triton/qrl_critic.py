"""QRL's critic loss with an IQE head in Triton: the functions of backends/reference/qrl_critic.py, in the same order.

Forward: one kernel from embeddings to each row's slopes and each program's sums of the terms, and one program that
finishes them. Backward: one kernel from the ends that forward kept to all gradients, and for maxmean one program for
that of its weight. Goals that are y rolled by a row are read in place.

Precision: arithmetic in the input's dtype, float32 for half precision, sums over rows in double; no atomics, so the
same input gives the same bits.

Cost, for D = C * K values per row: forward reads the two or three tensors once and writes D / 2 bytes per row, about
21 K operations per element of x; from K = 32 on about 18 for each step of a sort (iqe.py), since both distances share
that of x. Backward reads those and writes each gradient once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.qrl_critic import QrlCriticSettings
from ...definitions import qrl_critic as definition
from ...definitions.iqe import keeps_largest
from ...definitions.qrl_critic import SLOPE_OF_RAW, Kept
from .iqe_rows import row_tile
from .two_distances import (
    SUM_BLOCK,
    mean_of,
    pair_gradients,
    store_coordinates,
    store_sum,
    store_two,
    store_weight_gradient,
    two_distances,
)

SLOPE_OF_RAW_AT = tl.constexpr(SLOPE_OF_RAW)


@triton.jit
def _softplus(value):
    """Returns log(1 + exp(value)) and its derivative, without overflow."""
    small = tl.exp(-tl.abs(value))
    above_one = 1 + small
    # log(1 + small) loses what the sum rounds off; the factor makes up for it.
    log = tl.where(above_one == 1, small, tl.log(above_one) * (small / tl.where(above_one == 1, 1.0, above_one - 1)))
    return tl.where(value > 0, value, 0.0) + log, tl.where(value > 0, 1.0, small) / above_one


@triton.jit
def _multiplier_of(raw_ptr, MULTIPLIER: tl.constexpr):
    """Returns the multiplier and its derivative by ``raw``."""
    raw = tl.load(raw_ptr)
    if MULTIPLIER == "exp":
        value = tl.exp(raw)
        slope = value
    else:
        value, slope = _softplus(raw)
    return value, slope


@triton.jit
def qrl_critic_forward_kernel(
    x_ptr,  # (num_rows, C * K)
    y_ptr,  # (num_rows, C * K)
    goal_ptr,  # (num_rows, C * K), None for y rolled by a row
    max_weight_ptr,  # (): None unless maxmean
    raw_ptr,  # ()
    cost_ptr,  # (num_rows) or (1)
    slopes_ptr,  # (2, num_rows)
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    spread_ptr,  # (2, num_rows), for maxmean
    sums_ptr,  # float64 (4, programs): push, violation, distance to the goals, to y
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    BETA: tl.constexpr,
    OFFSET: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    COST_OF_EACH: tl.constexpr,  # whether each row has its cost
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    dtype: tl.constexpr = slopes_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_of_goal = row
    to_ptr = goal_ptr
    if goal_ptr is None:
        row_of_goal = tl.where(row == 0, num_rows - 1, row - 1)
        to_ptr = y_ptr
    to_goal, to_y = two_distances(
        x_ptr, to_ptr, row_of_goal, x_ptr, y_ptr, row, max_weight_ptr, ends_ptr, largest_ptr, spread_ptr, num_rows,
        num_components, HIGHEST, K, REDUCTION, LINK, ROWS, BLOCK_C, BLOCK_K,
    )  # fmt: skip
    # push = softplus(beta * (offset - distance)) / beta,  violation = relu(distance - cost)
    softplus, slope_of_softplus = _softplus((OFFSET - to_goal) * BETA)
    row_of_cost = row if COST_OF_EACH else tl.zeros_like(row)
    beyond = to_y - tl.load(cost_ptr + row_of_cost, mask=row < num_rows, other=0)
    violation = tl.where(beyond < 0, 0.0, beyond)
    multiplier, _ = _multiplier_of(raw_ptr, MULTIPLIER)
    share = 1 / (tl.zeros((), dtype) + num_rows)
    store_two(slopes_ptr, row, -slope_of_softplus * share, 2 * violation * share * multiplier, num_rows)
    store_sum(sums_ptr, 0, softplus / BETA, row, num_rows)
    store_sum(sums_ptr, 1, violation * violation, row, num_rows)
    store_sum(sums_ptr, 2, to_goal, row, num_rows)
    store_sum(sums_ptr, 3, to_y, row, num_rows)


@triton.jit
def qrl_critic_sums_kernel(
    sums_ptr,  # float64 (4, num_programs)
    raw_ptr,  # ()
    loss_ptr,  # ()
    stats_ptr,  # (6)
    num_programs,
    num_rows,
    MULTIPLIER: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    push = mean_of(sums_ptr, 0, num_programs, num_rows, BLOCK)
    violation = mean_of(sums_ptr, 1, num_programs, num_rows, BLOCK)
    multiplier, slope = _multiplier_of(raw_ptr, MULTIPLIER)
    excess = violation - THRESHOLD
    tl.store(loss_ptr, push + multiplier * excess)
    tl.store(stats_ptr, push)
    tl.store(stats_ptr + 1, violation)
    tl.store(stats_ptr + 2, multiplier)
    tl.store(stats_ptr + 3, mean_of(sums_ptr, 2, num_programs, num_rows, BLOCK))
    tl.store(stats_ptr + 4, mean_of(sums_ptr, 3, num_programs, num_rows, BLOCK))
    tl.store(stats_ptr + SLOPE_OF_RAW_AT, -slope * excess)


@triton.jit
def qrl_critic_backward_kernel(
    grad_loss_ptr,  # ()
    stats_ptr,  # (6)
    slopes_ptr,  # (2, num_rows)
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    max_weight_ptr,  # (): None unless maxmean
    grad_x_ptr,  # (num_rows, C * K)
    grad_y_ptr,  # (num_rows, C * K)
    grad_goal_ptr,  # (num_rows, C * K), None for y rolled by a row
    grad_raw_ptr,  # ()
    num_rows,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,
):
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(grad_raw_ptr, tl.load(grad_loss_ptr) * tl.load(stats_ptr + SLOPE_OF_RAW_AT))
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :, None]
    from_goal, to_goal = pair_gradients(
        0, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, row, component, num_rows, num_components,
        K, REDUCTION, LINK, BLOCK_K,
    )  # fmt: skip
    from_y, to_y = pair_gradients(
        1, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, row, component, num_rows, num_components,
        K, REDUCTION, LINK, BLOCK_K,
    )  # fmt: skip
    store_coordinates(grad_x_ptr, from_goal + from_y, row, component, num_rows, num_components, K, BLOCK_K)
    if grad_goal_ptr is not None:
        store_coordinates(grad_goal_ptr, to_goal, row, component, num_rows, num_components, K, BLOCK_K)
    else:
        # Row i of y is the goal of the next row, and the last row of y that of the first.
        next_row = tl.where(row + 1 < num_rows, row + 1, tl.where(row < num_rows, 0, num_rows))
        _, to_goal_of_next = pair_gradients(
            0, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, next_row, component, num_rows,
            num_components, K, REDUCTION, LINK, BLOCK_K,
        )  # fmt: skip
        to_y += to_goal_of_next
    store_coordinates(grad_y_ptr, to_y, row, component, num_rows, num_components, K, BLOCK_K)


def _forward_constants(settings: QrlCriticSettings, num_components: int, highest: float, cost_of_each: bool) -> dict:
    return {
        "HIGHEST": highest,
        "K": settings.dim_per_component,
        "REDUCTION": settings.reduction,
        "LINK": settings.weight_link,
        "BETA": settings.softplus_beta,
        "OFFSET": settings.softplus_offset,
        "MULTIPLIER": settings.multiplier,
        "COST_OF_EACH": cost_of_each,
        **row_tile(num_components, settings.dim_per_component),
    }


def _sums_constants(settings: QrlCriticSettings) -> dict:
    return {"MULTIPLIER": settings.multiplier, "THRESHOLD": settings.threshold, "BLOCK": SUM_BLOCK}


def qrl_critic_forward(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> Kept:
    outputs = definition.qrl_critic_forward_outputs(x, y, goal, max_weight, raw, cost, *settings)
    loss, stats, slopes, ends, largest, spread = outputs
    settings, num_rows, num_components = QrlCriticSettings(*settings), x.shape[0], ends.shape[2]
    constants = _forward_constants(settings, num_components, torch.finfo(loss.dtype).max, cost.numel() > 1)
    num_programs = triton.cdiv(num_rows, constants["ROWS"])
    sums = x.new_empty(4, num_programs, dtype=torch.float64)
    with torch.cuda.device_of(x):
        qrl_critic_forward_kernel[(num_programs,)](
            x, y, goal, max_weight, raw, cost, slopes, ends, largest, spread, sums, num_rows, num_components,
            **constants,
        )  # fmt: skip
        qrl_critic_sums_kernel[(1,)](sums, raw, loss, stats, num_programs, num_rows, **_sums_constants(settings))
    return outputs


def qrl_critic_backward(
    grad_loss: Tensor,
    stats: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    has_goal: bool,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    grads = definition.qrl_critic_backward_outputs(
        grad_loss, stats, slopes, ends, largest, spread, max_weight, like, has_goal, dim_per_component, reduction,
        weight_link,
    )  # fmt: skip
    grad_x, grad_y, grad_goal, grad_max_weight, grad_raw = grads
    num_rows, num_components = ends.shape[1:3]
    largest = largest if keeps_largest(reduction) else None
    tile = row_tile(num_components, dim_per_component)
    blocks = triton.cdiv(num_rows, tile["ROWS"]), triton.cdiv(num_components, tile["BLOCK_C"])
    with torch.cuda.device_of(slopes):
        qrl_critic_backward_kernel[blocks](
            grad_loss, stats, slopes, ends, largest, max_weight, grad_x, grad_y, grad_goal, grad_raw, num_rows,
            num_components, K=dim_per_component, REDUCTION=reduction, LINK=weight_link, **tile,
        )  # fmt: skip
        if max_weight is not None:
            store_weight_gradient(grad_loss, slopes, spread, max_weight, weight_link, grad_max_weight)
    return grads


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    dtypes = {"ends_ptr": torch.uint8, "largest_ptr": torch.int32, "sums_ptr": torch.float64}
    missing = {"max_weight_ptr": None, "largest_ptr": None, "spread_ptr": None, "goal_ptr": None, "grad_goal_ptr": None}
    shared = ("K", "REDUCTION", "LINK", "ROWS", "BLOCK_C", "BLOCK_K")
    for dim_per_component, num_components, reduction, multiplier, arguments in (
        (5, 3, "sum", "softplus", dtypes | missing | {"num_rows": 1}),
        (16, 32, "maxmean", "exp", dtypes),
        (1024, 1, "max", "softplus", dtypes | {"max_weight_ptr": None, "spread_ptr": None}),
    ):
        settings = QrlCriticSettings(dim_per_component, reduction, "one_minus_sigmoid", multiplier=multiplier)
        constants = _forward_constants(settings, num_components, torch.finfo(dtype).max, reduction == "maxmean")
        yield qrl_critic_forward_kernel, arguments | constants
        yield qrl_critic_sums_kernel, arguments | _sums_constants(settings)
        yield qrl_critic_backward_kernel, arguments | {name: constants[name] for name in shared}
    if dtype is torch.float32:
        names = ("x_ptr", "y_ptr", "goal_ptr", "grad_x_ptr", "grad_y_ptr", "grad_goal_ptr")
        arguments = dtypes | missing | dict.fromkeys(names, torch.bfloat16)
        constants = _forward_constants(QrlCriticSettings(8, "sum"), 64, torch.finfo(dtype).max, False)
        yield qrl_critic_forward_kernel, arguments | constants
        yield qrl_critic_backward_kernel, arguments | {name: constants[name] for name in shared}

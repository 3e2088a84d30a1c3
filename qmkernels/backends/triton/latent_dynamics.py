"""QRL's latent dynamics with an IQE head in Triton: the functions of backends/reference/latent_dynamics.py, in order.

Forward: one kernel from embeddings to each row's slopes and each program's sums, and one program that finishes them.
Backward: one kernel from the ends that forward kept to both gradients, and for maxmean one program for that of its
weight.

Precision: arithmetic in the input's dtype, float32 for half precision, sums over rows in double; no atomics, so the
same input gives the same bits.

Cost, for D = C * K values per row: forward reads both tensors once and writes D / 2 bytes per row. The two directions
share their loads. Backward reads those bytes and writes both gradients once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.latent_dynamics import LatentDynamicsSettings
from ...definitions import latent_dynamics as definition
from ...definitions.iqe import keeps_largest
from ...definitions.latent_dynamics import Kept
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


@triton.jit
def latent_dynamics_forward_kernel(
    predicted_ptr,  # (num_rows, C * K)
    target_ptr,  # (num_rows, C * K)
    max_weight_ptr,  # (): None unless maxmean
    slopes_ptr,  # (2, num_rows)
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    spread_ptr,  # (2, num_rows), for maxmean
    sums_ptr,  # float64 (3, programs): terms of the loss, distance to the target, back
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    POWER: tl.constexpr,  # 1 or 2
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    dtype: tl.constexpr = slopes_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there, back = two_distances(
        predicted_ptr, target_ptr, row, target_ptr, predicted_ptr, row, max_weight_ptr, ends_ptr, largest_ptr,
        spread_ptr, num_rows, num_components, HIGHEST, K, REDUCTION, LINK, ROWS, BLOCK_C, BLOCK_K,
    )  # fmt: skip
    # The term of a direction is half a power of its distance.
    share = 1 / (tl.zeros((), dtype) + num_rows)
    if POWER == 2:
        store_two(slopes_ptr, row, there * share, back * share, num_rows)
        terms = (there * there + back * back) / 2
    else:
        half = tl.zeros((ROWS,), dtype) + share / 2
        store_two(slopes_ptr, row, half, half, num_rows)
        terms = (there + back) / 2
    store_sum(sums_ptr, 0, terms, row, num_rows)
    store_sum(sums_ptr, 1, there, row, num_rows)
    store_sum(sums_ptr, 2, back, row, num_rows)


@triton.jit
def latent_dynamics_sums_kernel(
    sums_ptr,  # float64 (3, num_programs)
    loss_ptr,  # ()
    stats_ptr,  # (2)
    num_programs,
    num_rows,
    BLOCK: tl.constexpr,
):
    tl.store(loss_ptr, mean_of(sums_ptr, 0, num_programs, num_rows, BLOCK))
    tl.store(stats_ptr, mean_of(sums_ptr, 1, num_programs, num_rows, BLOCK))
    tl.store(stats_ptr + 1, mean_of(sums_ptr, 2, num_programs, num_rows, BLOCK))


@triton.jit
def latent_dynamics_backward_kernel(
    grad_loss_ptr,  # ()
    slopes_ptr,  # (2, num_rows)
    ends_ptr,  # uint8 (2, num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (2, num_rows), for a reduction by the maximum
    max_weight_ptr,  # (): None unless maxmean
    grad_predicted_ptr,  # (num_rows, C * K)
    grad_target_ptr,  # (num_rows, C * K)
    num_rows,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :, None]
    # Of a direction, x is where it starts and y where it leads.
    x_there, y_there = pair_gradients(
        0, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, row, component, num_rows, num_components,
        K, REDUCTION, LINK, BLOCK_K,
    )  # fmt: skip
    x_back, y_back = pair_gradients(
        1, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, row, component, num_rows, num_components,
        K, REDUCTION, LINK, BLOCK_K,
    )  # fmt: skip
    store_coordinates(grad_predicted_ptr, x_there + y_back, row, component, num_rows, num_components, K, BLOCK_K)
    store_coordinates(grad_target_ptr, y_there + x_back, row, component, num_rows, num_components, K, BLOCK_K)


def _constants(num_components: int, dim_per_component: int, reduction: str, weight_link: str) -> dict:
    """Returns the constants shared by the kernels over rows."""
    settings = {"K": dim_per_component, "REDUCTION": reduction, "LINK": weight_link}
    return settings | row_tile(num_components, dim_per_component)


def latent_dynamics_forward(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> Kept:
    outputs = definition.latent_dynamics_forward_outputs(predicted, target, max_weight, *settings)
    loss, stats, slopes, ends, largest, spread = outputs
    *iqe, power = LatentDynamicsSettings(*settings)
    num_rows, num_components = ends.shape[1:3]
    constants = _constants(num_components, *iqe)
    num_programs = triton.cdiv(num_rows, constants["ROWS"])
    sums = predicted.new_empty(3, num_programs, dtype=torch.float64)
    with torch.cuda.device_of(predicted):
        latent_dynamics_forward_kernel[(num_programs,)](
            predicted, target, max_weight, slopes, ends, largest, spread, sums, num_rows, num_components,
            HIGHEST=torch.finfo(loss.dtype).max, POWER=power, **constants,
        )  # fmt: skip
        latent_dynamics_sums_kernel[(1,)](sums, loss, stats, num_programs, num_rows, BLOCK=SUM_BLOCK)
    return outputs


def latent_dynamics_backward(
    grad_loss: Tensor,
    slopes: Tensor,
    ends: Tensor,
    largest: Tensor,
    spread: Tensor,
    max_weight: Tensor | None,
    like: Tensor,
    *iqe,
) -> tuple[Tensor, Tensor, Tensor | None]:
    grads = definition.latent_dynamics_backward_outputs(
        grad_loss, slopes, ends, largest, spread, max_weight, like, *iqe
    )
    grad_predicted, grad_target, grad_max_weight = grads
    num_rows, num_components = ends.shape[1:3]
    constants = _constants(num_components, *iqe)
    largest = largest if keeps_largest(constants["REDUCTION"]) else None
    blocks = triton.cdiv(num_rows, constants["ROWS"]), triton.cdiv(num_components, constants["BLOCK_C"])
    with torch.cuda.device_of(slopes):
        latent_dynamics_backward_kernel[blocks](
            grad_loss, slopes, ends, largest, max_weight, grad_predicted, grad_target, num_rows, num_components,
            **constants,
        )  # fmt: skip
        if max_weight is not None:
            store_weight_gradient(grad_loss, slopes, spread, max_weight, constants["LINK"], grad_max_weight)
    return grads


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    dtypes = {"ends_ptr": torch.uint8, "largest_ptr": torch.int32, "sums_ptr": torch.float64}
    missing = {"max_weight_ptr": None, "spread_ptr": None}
    yield latent_dynamics_sums_kernel, dtypes | {"BLOCK": SUM_BLOCK}
    for dim_per_component, num_components, reduction, power, arguments in (
        (5, 3, "sum", 1, dtypes | missing | {"largest_ptr": None, "num_rows": 1}),
        (16, 32, "maxmean", 2, dtypes),
        (77, 3, "max", 2, dtypes | missing),
    ):
        arguments = arguments | _constants(num_components, dim_per_component, reduction, "sigmoid")
        yield latent_dynamics_backward_kernel, arguments
        yield latent_dynamics_forward_kernel, arguments | {"HIGHEST": torch.finfo(dtype).max, "POWER": power}
    if dtype is torch.float32:
        names = ("predicted_ptr", "target_ptr", "grad_predicted_ptr", "grad_target_ptr")
        arguments = dtypes | missing | {"largest_ptr": None} | dict.fromkeys(names, torch.bfloat16)
        arguments |= _constants(64, 8, "sum", "identity")
        yield latent_dynamics_backward_kernel, arguments
        yield latent_dynamics_forward_kernel, arguments | {"HIGHEST": torch.finfo(dtype).max, "POWER": 2}

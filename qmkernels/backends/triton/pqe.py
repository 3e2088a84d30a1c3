"""PQE-LH in Triton: the functions of backends/reference/pqe.py, in the same order.

Precision: all arithmetic in the input's dtype, float32 for half precision; 1 - exp without cancellation; no atomics, so
the same input gives the same bits: each program writes its share of the weights' gradient, and torch adds up the
shares.

Cost: forward reads x and y once and writes one number per row; backward reads both once and writes both gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import pqe as definition
from .pqe_components import COMPILED, component_of, gradient_by_x, mean_exceeding, rows_of_program
from .pqe_pairwise import pqe_pairwise_backward, pqe_pairwise_forward
from .tiles import component_offsets, component_tile

__all__ = ["pqe_backward", "pqe_forward", "pqe_pairwise_backward", "pqe_pairwise_forward"]


@triton.jit
def pqe_forward_kernel(
    x_ptr,  # (num_rows, C, K)
    y_ptr,  # (num_rows, C, K)
    weights_ptr,  # (num_weights, C): None for components
    out_ptr,  # (num_rows), without weights (num_rows, C)
    num_rows,
    num_weights,
    num_components,
    K: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    row, row_exists, run = rows_of_program(num_rows, num_weights, ROWS)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    total = tl.zeros((ROWS,), dtype)
    for first_component in range(0, num_components, BLOCK_C):
        component = first_component + tl.arange(0, BLOCK_C)
        c_exists = component < num_components
        exists = row_exists[:, None] & c_exists[None, :]
        here, is_value = component_offsets(row, component, num_components, K, BLOCK_K)
        mask = exists[:, :, None] & is_value
        x = tl.load(x_ptr + here, mask=mask, other=0).to(dtype)
        difference = tl.load(y_ptr + here, mask=mask, other=0).to(dtype) - x
        # 1 - exp(mean_k min(y_k - x_k, 0))
        part = component_of(mean_exceeding(difference, K))
        if weights_ptr is None:
            tl.store(out_ptr + row[:, None] * num_components + component[None, :], part, mask=exists)
        else:
            weight = tl.load(weights_ptr + run * num_components + component, mask=c_exists, other=0)
            total += tl.sum(part * weight[None, :], axis=1)
    if weights_ptr is not None:
        tl.store(out_ptr + row, total, mask=row_exists)


@triton.jit
def pqe_backward_kernel(
    grad_out_ptr,  # (num_rows), without weights (num_rows, C)
    x_ptr,  # (num_rows, C, K)
    y_ptr,  # (num_rows, C, K)
    weights_ptr,  # (num_weights, C): None for components
    grad_x_ptr,  # (num_rows, C, K)
    grad_y_ptr,  # (num_rows, C, K)
    grad_weights_ptr,  # (programs along rows, C): None if not needed
    num_rows,
    num_weights,
    num_components,
    K: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    row, row_exists, run = rows_of_program(num_rows, num_weights, ROWS)
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_exists = component < num_components
    exists = row_exists[:, None] & c_exists[None, :]
    here, is_value = component_offsets(row, component, num_components, K, BLOCK_K)
    mask = exists[:, :, None] & is_value
    dtype: tl.constexpr = grad_out_ptr.dtype.element_ty
    x = tl.load(x_ptr + here, mask=mask, other=0).to(dtype)
    difference = tl.load(y_ptr + here, mask=mask, other=0).to(dtype) - x
    mean = mean_exceeding(difference, K)
    if weights_ptr is None:
        weight = tl.load(grad_out_ptr + row[:, None] * num_components + component[None, :], mask=exists, other=0)
    else:
        grad_out = tl.load(grad_out_ptr + row, mask=row_exists, other=0)[:, None]
        weight = grad_out * tl.load(weights_ptr + run * num_components + component, mask=c_exists, other=0)[None, :]
        if grad_weights_ptr is not None:
            share = tl.sum(grad_out * component_of(mean), axis=0)
            share_ptr = grad_weights_ptr + tl.program_id(0).to(tl.int64) * num_components
            tl.store(share_ptr + component, share, mask=c_exists)
    grad = gradient_by_x(weight, mean, difference, K)
    tl.store(grad_x_ptr + here, grad, mask=mask)
    tl.store(grad_y_ptr + here, -grad, mask=mask)


def pqe_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    num_rows = rows.numel()
    out = definition.pqe_forward_outputs(x, y, weights, dim_per_component)
    if num_rows == 0:
        return out
    num_weights = definition.num_weights(weights)
    tile = component_tile(num_components, dim_per_component)
    with torch.cuda.device_of(x):
        pqe_forward_kernel[(num_weights * triton.cdiv(num_rows // num_weights, tile.rows),)](
            x,
            y,
            weights,
            out,
            num_rows,
            num_weights,
            num_components,
            K=dim_per_component,
            **tile.constants("BLOCK_K"),
        )
    return out


def pqe_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_components = x.shape[:-1].numel(), x.shape[-1] // dim_per_component
    grad_x, grad_y, grad_weights = definition.pqe_backward_outputs(
        grad_out, x, y, weights, dim_per_component, need_weights
    )
    num_weights = definition.num_weights(weights)
    tile = component_tile(num_components, dim_per_component)
    programs_per_run = triton.cdiv(num_rows // num_weights, tile.rows)
    shares = grad_out.new_empty(*weights.shape[:-1], programs_per_run, num_components) if need_weights else None
    if num_rows > 0:
        with torch.cuda.device_of(x):
            pqe_backward_kernel[(num_weights * programs_per_run, triton.cdiv(num_components, tile.block_c))](
                grad_out,
                x,
                y,
                weights,
                grad_x,
                grad_y,
                shares,
                num_rows,
                num_weights,
                num_components,
                K=dim_per_component,
                **tile.constants("BLOCK_K"),
            )
    if shares is not None:
        grad_weights.copy_(shares.sum(dim=-2, dtype=torch.float64))
    return grad_x, grad_y, grad_weights


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    half = dict.fromkeys(("x_ptr", "y_ptr", "grad_x_ptr", "grad_y_ptr"), torch.bfloat16)
    for num_components, size, arguments in (*COMPILED, *([(128, 4, half)] if dtype is torch.float32 else [])):
        arguments = {"K": size} | arguments | component_tile(num_components, size).constants("BLOCK_K")
        yield pqe_backward_kernel, arguments
        yield pqe_forward_kernel, {name: value for name, value in arguments.items() if name != "grad_weights_ptr"}

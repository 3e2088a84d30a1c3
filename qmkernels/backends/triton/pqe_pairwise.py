"""PQE-LH's pairwise functions in Triton.

Precision: as in pqe.py; sums over the other side are taken in parts, in a fixed order.

Cost, for N and M points of D values:

- forward takes 3 operations per element of N * M * D, difference, minimum and sum, and one exponential per component.
  Its only workspace is x and y transposed.
- backward runs once for grad_x and once for grad_y: a program keeps its own points and their gradient and visits all
  points of the other side, with some 5 operations per element.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import pqe as definition
from .pqe_components import COMPILED, component_of, gradient_by_x, mean_exceeding
from .tiles import ROWS_A_PART, component_offsets, own_rows, own_tile, pair_tile, pairs_of_program


@triton.jit
def pqe_pairwise_forward_kernel(
    x_by_point_ptr,  # (batch, C, K, num_x)
    y_by_point_ptr,  # (batch, C, K, num_y)
    weights_ptr,  # (num_weights, C): None for components
    out_ptr,  # (batch, num_x, num_y), without weights (batch, num_x, num_y, C)
    num_x,
    num_y,
    samples_per_run,  # samples that share weights
    num_components,
    K: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    dtype: tl.constexpr = x_by_point_ptr.dtype.element_ty
    zero = tl.zeros((), dtype)
    sample, i, j = pairs_of_program(num_x, num_y, BLOCK_X, BLOCK_Y)
    i_exists, j_exists = i < num_x, j < num_y
    exists = i_exists[:, None] & j_exists[None, :]
    pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
    # Addresses of the next value of x and of y.
    x_line = x_by_point_ptr + sample * num_components * K * num_x + i
    y_line = y_by_point_ptr + sample * num_components * K * num_y + j

    first_weight = sample // samples_per_run * num_components
    total = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
    for component in range(num_components):
        # 1 - exp(mean_k min(y_k - x_k, 0))
        exceeding = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
        for _ in range(K):
            x = tl.load(x_line, mask=i_exists, other=0)[:, None]
            y = tl.load(y_line, mask=j_exists, other=0)[None, :]
            exceeding += tl.minimum(y - x, zero, propagate_nan=tl.PropagateNan.ALL)
            x_line += num_x
            y_line += num_y
        part = component_of(exceeding / K)
        if weights_ptr is None:
            tl.store(out_ptr + pair * num_components + component, part, mask=exists)
        else:
            total += part * tl.load(weights_ptr + first_weight + component)
    if weights_ptr is not None:
        tl.store(out_ptr + pair, total, mask=exists)


@triton.jit
def pqe_pairwise_backward_kernel(
    grad_out_ptr,  # (batch, num_x, num_y), without weights (batch, num_x, num_y, C); strides below
    own_ptr,  # (batch, num_own, C, K): x for its gradient, y for its gradient
    other_ptr,  # (batch, num_other, C, K)
    weights_ptr,  # (num_weights, C): None for components
    grad_ptr,  # (batch, num_own, C, K)
    grad_weights_ptr,  # (batch * blocks of own points, C): None if not needed
    num_own,
    num_other,
    samples_per_run,  # samples that share weights
    num_components,
    stride_own,  # pairs from one of the own points to the next
    stride_other,
    SIGN: tl.constexpr,  # 1: the gradient by x; -1: by y
    K: tl.constexpr,
    ROWS: tl.constexpr,  # own points per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    dtype: tl.constexpr = own_ptr.dtype.element_ty
    sample, i, component = own_rows(num_own, num_components, ROWS, BLOCK_C)
    i_exists = i < num_own
    c_exists = component < num_components
    exists = i_exists[:, None] & c_exists[None, :]
    here, is_value = component_offsets(sample * num_own + i, component, num_components, K, BLOCK_K)
    mask = exists[:, :, None] & is_value
    own = tl.load(own_ptr + here, mask=mask, other=0)
    first_pair = sample * num_own * num_other + i.to(tl.int64) * stride_own
    if weights_ptr is not None:
        first_weight = sample // samples_per_run * num_components
        of_component = tl.load(weights_ptr + first_weight + component, mask=c_exists, other=0)[None, :]

    grad = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype)
    grad_weights = tl.zeros((ROWS, BLOCK_C), dtype)
    for first in range(0, num_other, ROWS_A_PART):
        some = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype)
        some_weights = tl.zeros((ROWS, BLOCK_C), dtype)
        for j in range(first, tl.minimum(first + ROWS_A_PART, num_other)):
            row = sample * num_other + j + tl.zeros((1,), tl.int64)
            there, _ = component_offsets(row, component, num_components, K, BLOCK_K)
            other = tl.load(other_ptr + there, mask=c_exists[None, :, None] & is_value, other=0)
            difference = (other - own) * SIGN
            mean = mean_exceeding(difference, K)
            pair = first_pair + tl.cast(j, tl.int64) * stride_other
            if weights_ptr is None:
                place = pair[:, None] * num_components + component[None, :]
                weight = tl.load(grad_out_ptr + place, mask=exists, other=0)
            else:
                grad_out = tl.load(grad_out_ptr + pair, mask=i_exists, other=0)[:, None]
                weight = grad_out * of_component
                if grad_weights_ptr is not None:
                    some_weights += grad_out * component_of(mean)
            some += gradient_by_x(weight, mean, difference, K)
        grad += some
        grad_weights += some_weights
    tl.store(grad_ptr + here, grad * SIGN, mask=mask)
    if grad_weights_ptr is not None:
        # Rows beyond the last also have a component, of 0 - y.
        share = tl.sum(tl.where(exists, grad_weights, 0.0), axis=0)
        block = sample * tl.cdiv(num_own, ROWS) + i // ROWS
        share_ptr = grad_weights_ptr + tl.min(block, axis=0) * num_components
        tl.store(share_ptr + component, share, mask=c_exists)


def pqe_pairwise_forward(x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int) -> Tensor:
    num_components = x.shape[-1] // dim_per_component
    batch, num_x, num_y = x.shape[0], x.shape[1], y.shape[1]
    out = definition.pqe_pairwise_forward_outputs(x, y, weights, dim_per_component)
    if out.numel() == 0:
        return out
    block_x, block_y = pair_tile(num_x, num_y, x.element_size())
    with torch.cuda.device_of(x):
        pqe_pairwise_forward_kernel[(batch * triton.cdiv(num_x, block_x) * triton.cdiv(num_y, block_y),)](
            x.mT.contiguous(),
            y.mT.contiguous(),
            weights,
            out,
            num_x,
            num_y,
            batch // definition.num_weights(weights),
            num_components,
            K=dim_per_component,
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
        )
    return out


def _write_gradient(
    grad: Tensor,
    grad_weights: Tensor | None,
    grad_out: Tensor,
    strides: tuple[int, int],
    own: Tensor,
    other: Tensor,
    weights: Tensor | None,
    dim_per_component: int,
    sign: int,
) -> None:
    """Writes the gradient by x (own, sign 1) or by y (own, sign -1), and that by the weights unless None; ``strides``:
    of pairs, along own and other points."""
    batch, num_own, num_other = own.shape[0], own.shape[1], other.shape[1]
    num_components = own.shape[-1] // dim_per_component
    if batch * num_own * num_other == 0:
        grad.zero_()
        if grad_weights is not None:
            grad_weights.zero_()
        return
    tile = own_tile(num_own, num_components, dim_per_component)
    samples_per_run, blocks = batch // definition.num_weights(weights), triton.cdiv(num_own, tile.rows)
    shares = None
    if grad_weights is not None:
        shares = own.new_empty(*weights.shape[:-1], samples_per_run * blocks, num_components)
    with torch.cuda.device_of(own):
        pqe_pairwise_backward_kernel[(batch * blocks * triton.cdiv(num_components, tile.block_c),)](
            grad_out,
            own,
            other,
            weights,
            grad,
            shares,
            num_own,
            num_other,
            samples_per_run,
            num_components,
            *strides,
            SIGN=sign,
            K=dim_per_component,
            **tile.constants("BLOCK_K"),
        )
    if shares is not None:
        grad_weights.copy_(shares.sum(dim=-2, dtype=torch.float64))


def pqe_pairwise_backward(
    grad_out: Tensor, x: Tensor, y: Tensor, weights: Tensor | None, dim_per_component: int, need_weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_y, rest = y.shape[1], (weights, dim_per_component)
    grad_x, grad_y, grad_weights = definition.pqe_backward_outputs(grad_out, x, y, *rest, need_weights)
    _write_gradient(grad_x, grad_weights, grad_out, (num_y, 1), x, y, *rest, sign=1)
    _write_gradient(grad_y, None, grad_out, (1, num_y), y, x, *rest, sign=-1)
    return grad_x, grad_y, grad_weights


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    block_x, block_y = pair_tile(1000, 1000, dtype.itemsize)
    for num_components, size, arguments in COMPILED:
        arguments = {name: value for name, value in arguments.items() if name != "num_weights"}
        forward = {name: value for name, value in arguments.items() if name != "grad_weights_ptr"}
        yield pqe_pairwise_forward_kernel, {"K": size, "BLOCK_X": block_x, "BLOCK_Y": block_y} | forward
        tile = own_tile(1000, num_components, size)
        backward = {"K": size, "SIGN": 1, "stride_other": 1} | arguments | tile.constants("BLOCK_K")
        yield pqe_pairwise_backward_kernel, backward

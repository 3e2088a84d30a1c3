"""IQE's pairwise functions in Triton.

Precision: as in iqe.py; sums over the other side of the matrix are also in the input's dtype, in a fixed order.

Cost, for N and M points, D = C * K values per point:

- forward sorts every x once, then takes 4 operations per element of N * M * D: begin, furthest, difference, sum. Its
  only workspace is the sorted x, their int32 positions and a transposed y, D values per point each.
- backward scans once for grad_x and once, mirrored, for grad_y: twice 4 operations per element, and a sum over the
  other side.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import iqe as definition
from .iqe_components import finite, reduced, sharing, weighted, weights_of
from .tiles import tile_for


@triton.jit
def iqe_pairwise_forward_kernel(
    sorted_x_ptr,  # (batch, num_x, C, K), ascending in K, finite or NaN
    position_ptr,  # int32 (batch, num_x, C, K): where each sorted x stood
    y_by_point_ptr,  # (batch, C, K, padded_y), finite or NaN
    max_weight_ptr,  # (num_weights,): None unless maxmean
    out_ptr,  # (batch, num_x, num_y), for reduction "none" (batch, num_x, num_y, C)
    largest_ptr,  # int32 (batch, num_x, num_y), with KEEP
    matrices_per_weight,
    num_x,
    num_y,
    padded_y,  # num_y rounded up to a multiple of BLOCK_Y: y is read without a mask
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,  # one of definitions.iqe.WEIGHT_LINKS
    KEEP: tl.constexpr,
    WIDE: tl.constexpr,  # whether K * padded_y passes 32 bits
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    dtype: tl.constexpr = sorted_x_ptr.dtype.element_ty
    blocks_x = tl.cdiv(num_x, BLOCK_X)
    blocks_y = tl.cdiv(num_y, BLOCK_Y)
    program = tl.program_id(0)
    sample = (program // (blocks_x * blocks_y)).to(tl.int64)
    i = program // blocks_y % blocks_x * BLOCK_X + tl.arange(0, BLOCK_X)
    j = program % blocks_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    i_exists = i < num_x
    exists = i_exists[:, None] & (j < num_y)[None, :]
    x_row = (sample * num_x + i) * num_components * K
    first_line = y_by_point_ptr + sample * num_components * K * padded_y

    total = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
    greatest = tl.full((BLOCK_X, BLOCK_Y), -1, dtype)
    largest = tl.zeros((BLOCK_X, BLOCK_Y), tl.int32)
    for component in range(num_components):
        furthest = tl.full((BLOCK_X, BLOCK_Y), -HIGHEST, dtype)
        length = tl.zeros((BLOCK_X, BLOCK_Y), dtype)
        for k in range(K):
            x = tl.load(sorted_x_ptr + x_row + component * K + k, mask=i_exists, other=0)
            position = tl.load(position_ptr + x_row + component * K + k, mask=i_exists, other=0)
            line = (position.to(tl.int64) if WIDE else position) * padded_y
            y = tl.load(first_line + (line[:, None] + j[None, :]))
            # begin_k = max(x_k, furthest),  furthest = max(begin_k, y_k),  length += furthest - begin_k
            begin = tl.maximum(furthest, x[:, None], propagate_nan=tl.PropagateNan.ALL)
            furthest = tl.maximum(begin, y, propagate_nan=tl.PropagateNan.ALL)
            length += furthest - begin
        first_line += K * padded_y.to(tl.int64)

        if REDUCTION == "none":
            pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
            tl.store(out_ptr + pair * num_components + component, length, mask=exists)
        total += length
        if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
            is_greater = length > greatest
            largest = tl.where(is_greater, component, largest)
            greatest = tl.where(is_greater, length, greatest)

    # Computed only now, so that the loop does not hold these registers.
    pair = (sample * num_x + i)[:, None] * num_y + j[None, :]
    if REDUCTION != "none":
        out = reduced(total, greatest, max_weight_ptr, sample // matrices_per_weight, num_components, REDUCTION, LINK)
        tl.store(out_ptr + pair, out, mask=exists)
    if KEEP:
        tl.store(largest_ptr + pair, largest, mask=exists)


@triton.jit
def iqe_pairwise_backward_kernel(
    grad_out_ptr,  # (batch, num_x, num_y), for reduction "none" (batch, num_x, num_y, C); strides below
    sorted_x_ptr,  # (batch, num_x, C, K), ascending in K, finite or NaN
    position_ptr,  # int32 (batch, num_x, C, K): where each sorted x stood
    y_by_point_ptr,  # (batch, C, K, padded_y), finite or NaN
    largest_ptr,  # int32 (batch, num_x, num_y), for a reduction by the maximum; strides below
    max_weight_ptr,  # (num_weights,): None unless maxmean
    grad_ptr,  # (batch, num_x, C, K)
    matrices_per_weight,
    num_x,
    num_y,
    padded_y,  # num_y rounded up to a multiple of BLOCK_Y: y is read without a mask
    num_components,
    stride_x,  # pairs from one x to the next, in grad_out and largest: they may be transposed
    stride_y,  # pairs from one y to the next
    HIGHEST: tl.constexpr,  # largest finite number of the dtype
    SIGN: tl.constexpr,  # -1: the gradient by x; +1: by y, with the mirrored problem in place of x and y
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,  # one of definitions.iqe.WEIGHT_LINKS
    WIDE: tl.constexpr,  # whether K * padded_y passes 32 bits
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    dtype: tl.constexpr = sorted_x_ptr.dtype.element_ty
    blocks_x = tl.cdiv(num_x, BLOCK_X)
    program = tl.program_id(0)
    sample = (program // (blocks_x * num_components)).to(tl.int64)
    component = program // blocks_x % num_components
    i = program % blocks_x * BLOCK_X + tl.arange(0, BLOCK_X)
    i_exists = i < num_x
    x_row = ((sample * num_x + i) * num_components + component) * K
    first_line = y_by_point_ptr + (sample * num_components + component) * K * padded_y
    every, on_top = weights_of(max_weight_ptr, sample // matrices_per_weight, num_components, dtype, REDUCTION, LINK)

    order = tl.arange(0, BLOCK_K)[None, :]
    grad = tl.zeros((BLOCK_X, BLOCK_K), dtype)  # in the order of sorted_x
    for first_y in range(0, num_y, BLOCK_Y):
        j = first_y + tl.arange(0, BLOCK_Y)
        exists = i_exists[:, None] & (j < num_y)[None, :]
        pair = sample * num_x * num_y + i.to(tl.int64)[:, None] * stride_x + j.to(tl.int64)[None, :] * stride_y
        if REDUCTION == "none":
            weight = tl.load(grad_out_ptr + pair * num_components + component, mask=exists, other=0)
        else:
            weight = tl.load(grad_out_ptr + pair, mask=exists, other=0)
            if REDUCTION == "max" or REDUCTION == "maxmean" or REDUCTION == "spread":
                largest = tl.load(largest_ptr + pair, mask=exists, other=0)
                weight = weighted(weight, every + tl.where(component == largest, on_top, 0.0))
            else:
                weight = weighted(weight, every)

        furthest = tl.full((BLOCK_X, BLOCK_Y), -HIGHEST, dtype)
        for k in range(K):
            x = tl.load(sorted_x_ptr + x_row + k, mask=i_exists, other=0)[:, None]
            position = tl.load(position_ptr + x_row + k, mask=i_exists, other=0)
            line = (position.to(tl.int64) if WIDE else position) * padded_y
            y = tl.load(first_line + (line[:, None] + j[None, :]))
            # x_k starts a piece: x_k >= furthest, y_k > x_k;  grad_k += sum_j weight_j
            starts = (x >= furthest) & (y > x)
            furthest = tl.maximum(furthest, y)
            ended = tl.sum(tl.where(starts, weight, 0.0), axis=1, keep_dims=True)
            grad += tl.where(order == k, ended, 0.0)

    mask = i_exists[:, None] & (order < K)
    position = tl.load(position_ptr + x_row[:, None] + order, mask=mask, other=0)
    tl.store(grad_ptr + x_row[:, None] + position, grad * SIGN, mask=mask)


def _forward_tile(num_x: int, num_y: int, item_size: int) -> tuple[int, int]:
    """Returns the points of x and of y per program: 64 bytes per thread and number of a pair; more would spill."""
    return tile_for(num_x, 64 // item_size), max(tile_for(num_y, 128), 16)


def _backward_tile(num_x: int, num_y: int, dim_per_component: int, item_size: int) -> tuple[int, int]:
    """Returns the points of x per program and of y at a time. 128 y are 4 per thread of a warp: no shared memory."""
    block_k = triton.next_power_of_2(dim_per_component)
    return tile_for(num_x, max(min(32 // item_size, 1024 // block_k), 1)), max(tile_for(num_y, 128), 16)


def _is_wide(y_by_point: Tensor, dim_per_component: int) -> bool:
    return dim_per_component * y_by_point.shape[-1] >= 2**31


def _sorted_points(points: Tensor, num_components: int) -> tuple[Tensor, Tensor]:
    """Sorts finite points (B, N, D) within components; returns values and int32 positions, (B, N, C, K) each."""
    values, positions = points.unflatten(-1, (num_components, -1)).sort(dim=-1, stable=True)
    return values.contiguous(), positions.to(torch.int32).contiguous()


def _by_point(points: Tensor, block: int) -> Tensor:
    """Transposes points (B, M, D) to (B, D, M), with M padded to a multiple of ``block``; padding is never used."""
    batch, num_points, size = points.shape
    result = points.new_empty(batch, size, triton.cdiv(num_points, block) * block)
    result[..., :num_points] = points.mT
    return result


def iqe_pairwise_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    num_components = x.shape[-1] // dim_per_component
    batch, num_x, num_y = x.shape[0], x.shape[1], y.shape[1]
    out, largest = definition.iqe_pairwise_forward_outputs(
        x, y, max_weight, dim_per_component, reduction, weight_link, keep
    )
    keep = keep and definition.keeps_largest(reduction)
    if out.numel() == 0:
        return out, largest
    block_x, block_y = _forward_tile(num_x, num_y, x.element_size())
    sorted_x, position = _sorted_points(finite(x), num_components)
    y_by_point = _by_point(finite(y), block_y)
    matrices_per_weight = sharing(max_weight, batch)
    with torch.cuda.device_of(x):
        iqe_pairwise_forward_kernel[(batch * triton.cdiv(num_x, block_x) * triton.cdiv(num_y, block_y),)](
            sorted_x,
            position,
            y_by_point,
            max_weight,
            out,
            largest,
            matrices_per_weight,
            num_x,
            num_y,
            y_by_point.shape[-1],
            num_components,
            HIGHEST=torch.finfo(x.dtype).max,
            K=dim_per_component,
            REDUCTION=reduction,
            LINK=weight_link,
            KEEP=keep,
            WIDE=_is_wide(y_by_point, dim_per_component),
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
        )
    return out, largest


def _pairwise_gradient(
    grad_out: Tensor,  # its strides along x and y are the next argument
    strides: tuple[int, int],
    x: Tensor,
    y: Tensor,
    largest: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    sign: int,
) -> Tensor:
    """Returns the gradient by x (sign -1) or, called with the mirrored points -y and -x, by y (sign 1)."""
    batch, num_x, num_y, size = x.shape[0], x.shape[1], y.shape[1], x.shape[2]
    if batch * num_x * num_y * size == 0:
        return torch.zeros_like(x)
    num_components = size // dim_per_component
    block_x, block_y = _backward_tile(num_x, num_y, dim_per_component, x.element_size())
    grad = torch.empty_like(x)
    matrices_per_weight = sharing(max_weight, batch)
    sorted_x, position = _sorted_points(x, num_components)
    y_by_point = _by_point(y, block_y)
    with torch.cuda.device_of(x):
        iqe_pairwise_backward_kernel[(batch * num_components * triton.cdiv(num_x, block_x),)](
            grad_out,
            sorted_x,
            position,
            y_by_point,
            largest,
            max_weight,
            grad,
            matrices_per_weight,
            num_x,
            num_y,
            y_by_point.shape[-1],
            num_components,
            *strides,
            HIGHEST=torch.finfo(x.dtype).max,
            SIGN=sign,
            K=dim_per_component,
            REDUCTION=reduction,
            LINK=weight_link,
            WIDE=_is_wide(y_by_point, dim_per_component),
            BLOCK_X=block_x,
            BLOCK_Y=block_y,
            BLOCK_K=triton.next_power_of_2(dim_per_component),
        )
    return grad


def iqe_pairwise_backward(
    grad_out: Tensor,
    x: Tensor,
    y: Tensor,
    largest: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    finite_x, finite_y, num_y = finite(x), finite(y), y.shape[1]
    rest = largest, max_weight, dim_per_component, reduction, weight_link
    grad_x = _pairwise_gradient(grad_out, (num_y, 1), finite_x, finite_y, *rest, sign=-1)
    grad_y = _pairwise_gradient(grad_out, (1, num_y), -finite_y, -finite_x, *rest, sign=1)
    # NaN in a component makes its gradients NaN in every pair.
    components = (points.isnan().unflatten(-1, (-1, dim_per_component)) for points in (x, y))
    nan_x, nan_y = (is_nan.any(dim=-1, keepdim=True) for is_nan in components)
    for grad, nan, other in ((grad_x, nan_x, nan_y), (grad_y, nan_y, nan_x)):
        grad.unflatten(-1, (-1, dim_per_component)).masked_fill_(nan | other.any(dim=1, keepdim=True), torch.nan)
    grad_max_weight = None
    if need_weight:
        spread, _ = iqe_pairwise_forward(x, y, None, dim_per_component, "spread", weight_link, False)
        parts = grad_out.double(), spread, max_weight
        grad_max_weight = definition.weight_gradient(*parts, weight_link).to(x.dtype)
    return grad_x, grad_y, grad_max_weight


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for dim_per_component in (1, 5, 16, 1024):
        for reduction in ("maxmean", "none"):
            arguments = {
                "position_ptr": torch.int32, "largest_ptr": torch.int32, "padded_y": 1024,
                "max_weight_ptr": dtype if reduction == "maxmean" else None,
                "HIGHEST": torch.finfo(dtype).max, "K": dim_per_component, "REDUCTION": reduction,
                "LINK": "one_minus_sigmoid",
            }  # fmt: skip
            block_x, block_y = _forward_tile(1000, 1000, dtype.itemsize)
            forward = {"KEEP": reduction == "maxmean", "WIDE": False, "BLOCK_X": block_x, "BLOCK_Y": block_y}
            yield iqe_pairwise_forward_kernel, arguments | forward
            block_x, block_y = _backward_tile(1000, 1000, dim_per_component, dtype.itemsize)
            backward = {"SIGN": 1, "stride_x": 1, "WIDE": True, "BLOCK_X": block_x, "BLOCK_Y": block_y}
            backward["BLOCK_K"] = triton.next_power_of_2(dim_per_component)
            yield iqe_pairwise_backward_kernel, arguments | backward

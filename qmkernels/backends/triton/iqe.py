"""IQE in Triton: the functions of backends/reference/iqe.py, in the same order.

Precision: all arithmetic, including sums over components, is in the input's dtype, float32 for half precision; no
atomics, so the same input gives the same bits.

Cost, for D = C * K values per row:

- forward reads x and y once and writes one number per row, and with ``keep`` D / 4 bytes per row. Below K = 32 it
  compares all pairs of intervals in a component (about 6 K operations per element, with ends 12 K). Larger components
  it sorts (about 8 S operations for the S = L * (L + 1) / 2 steps of L = log2(K), with ends 13 S), and reads both
  again, out of the cache.
- backward reads D / 4 bytes per row and writes both gradients once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import iqe as definition
from . import iqe_one_row, iqe_pairwise
from .iqe_components import reduced, sharing, weights_of
from .iqe_rows import end_gradients, gradient_by_length, over_components, row_tile
from .one_row import one_row_of


@triton.jit
def iqe_forward_kernel(
    x_ptr,  # (num_rows / rows_per_x, C * K)
    y_ptr,  # (num_rows / rows_per_y, C * K)
    max_weight_ptr,  # (num_weights,): None unless maxmean
    out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8)), with KEEP
    largest_ptr,  # int32 (num_rows): None if not needed
    spread_ptr,  # (num_rows): None if not needed
    num_rows,
    rows_per_x,  # neighbouring rows that share a row of x
    rows_per_y,
    rows_per_weight,
    num_components,
    HIGHEST: tl.constexpr,  # largest finite number of the dtype that is computed
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,  # one of definitions.iqe.WEIGHT_LINKS
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_exists = row < num_rows
    total, greatest, largest = over_components(
        x_ptr, y_ptr, out_ptr, ends_ptr, row, num_rows, num_components, HIGHEST, K, REDUCTION, KEEP, ROWS, BLOCK_C,
        BLOCK_K, rows_per_x, rows_per_y,
    )  # fmt: skip
    if REDUCTION != "none":
        place = tl.minimum(row, num_rows - 1) // rows_per_weight
        out = reduced(total, greatest, max_weight_ptr, place, num_components, REDUCTION, LINK)
        tl.store(out_ptr + row, out, mask=row_exists)
    if largest_ptr is not None:
        tl.store(largest_ptr + row, largest, mask=row_exists)
    if spread_ptr is not None:
        spread = reduced(total, greatest, max_weight_ptr, place, num_components, "spread", LINK)
        tl.store(spread_ptr + row, spread, mask=row_exists)


@triton.jit
def iqe_backward_kernel(
    grad_out_ptr,  # (num_rows), for reduction "none" (num_rows, C)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    max_weight_ptr,  # (num_weights,): None unless maxmean
    grad_x_ptr,  # (num_rows, C * K)
    grad_y_ptr,  # (num_rows, C * K)
    num_rows,
    rows_per_weight,
    num_components,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,  # one of definitions.iqe.WEIGHT_LINKS
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    NUM_BYTES: tl.constexpr = (2 * K + 7) // 8
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :, None]
    k = tl.arange(0, BLOCK_K)[None, None, :]
    exists = (row < num_rows) & (component < num_components)

    place = tl.minimum(row, num_rows - 1) // rows_per_weight
    every, on_top = weights_of(max_weight_ptr, place, num_components, grad_out_ptr.dtype.element_ty, REDUCTION, LINK)
    weight = gradient_by_length(
        grad_out_ptr, largest_ptr, row, component, row < num_rows, exists, num_components, every, on_top, REDUCTION
    )
    at = row * num_components + component
    grad_x, grad_y = end_gradients(ends_ptr + at * NUM_BYTES, weight, exists, K, BLOCK_K)
    tl.store(grad_x_ptr + (at * K + k), grad_x, mask=exists & (k < K))
    tl.store(grad_y_ptr + (at * K + k), grad_y, mask=exists & (k < K))


def _constants(num_components: int, dim_per_component: int, reduction: str, weight_link: str) -> dict:
    """Returns the constants shared by both kernels."""
    settings = {"K": dim_per_component, "REDUCTION": reduction, "LINK": weight_link}
    return settings | row_tile(num_components, dim_per_component)


def _forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    outputs: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    num_rows: int,
    sharing_a_row: tuple[int, int],
    dim_per_component: int,
    reduction: str,
    weight_link: str,
) -> None:
    """Writes out, ends, largest and spread, of which the last three may be None; ``sharing_a_row``: how many
    neighbouring rows share one of x, and how many one of y."""
    out, ends, _, _ = outputs
    num_components = x.shape[-1] // dim_per_component
    if num_rows * num_components == 0:
        return
    constants = _constants(num_components, dim_per_component, reduction, weight_link)
    with torch.cuda.device_of(x):
        iqe_forward_kernel[(triton.cdiv(num_rows, constants["ROWS"]),)](
            x,
            y,
            max_weight,
            *outputs,
            num_rows,
            *sharing_a_row,
            sharing(max_weight, num_rows),
            num_components,
            HIGHEST=torch.finfo(out.dtype).max,
            KEEP=ends is not None,
            **constants,
        )


def iqe_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = dim_per_component, reduction, weight_link
    outputs = definition.iqe_forward_outputs(x, y, max_weight, *settings, keep)
    _forward(x, y, max_weight, outputs, x.shape[:-1].numel(), (1, 1), *settings)
    return outputs


def iqe_backward(
    grad_out: Tensor,
    ends: Tensor,
    largest: Tensor | None,
    spread: Tensor | None,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    need_weight: bool,
    like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_components = ends.shape[:-2], ends.shape[-2]
    num_rows, size = rows.numel(), num_components * dim_per_component
    grad_x, grad_y, grad_max_weight = definition.iqe_backward_outputs(
        grad_out, ends, largest, spread, max_weight, dim_per_component, reduction, weight_link, need_weight, like
    )
    if num_rows * size == 0:
        return grad_x, grad_y, grad_max_weight.zero_() if need_weight else None
    rows_per_weight = sharing(max_weight, num_rows)
    constants = _constants(num_components, dim_per_component, reduction, weight_link)
    blocks = triton.cdiv(num_rows, constants["ROWS"]), triton.cdiv(num_components, constants["BLOCK_C"])
    with torch.cuda.device_of(grad_out):
        iqe_backward_kernel[blocks](
            grad_out,
            ends,
            largest,
            max_weight,
            grad_x,
            grad_y,
            num_rows,
            rows_per_weight,
            num_components,
            **constants,
        )
    if need_weight:
        grad_max_weight = definition.weight_gradient(grad_out, spread, max_weight, weight_link)
    return grad_x, grad_y, grad_max_weight


def iqe_pairwise_forward(
    x: Tensor,
    y: Tensor,
    max_weight: Tensor | None,
    dim_per_component: int,
    reduction: str,
    weight_link: str,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    settings, one = (dim_per_component, reduction, weight_link), one_row_of(x, y)
    if one is None:
        return iqe_pairwise.iqe_pairwise_forward(x, y, max_weight, *settings, keep)
    out, largest = definition.iqe_pairwise_forward_outputs(x, y, max_weight, *settings, keep)
    _forward(x, y, max_weight, (out, None, largest, None), one.num_rows, one.sharing, *settings)
    return out, largest


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
) -> tuple[Tensor, Tensor, Tensor | None]:
    settings, one = (dim_per_component, reduction, weight_link), one_row_of(x, y)
    if one is None or not grad_out.numel():
        return iqe_pairwise.iqe_pairwise_backward(grad_out, x, y, largest, max_weight, *settings, need_weight)
    grad_x, grad_y, grad_max_weight = definition.iqe_pairwise_backward_outputs(
        grad_out, x, y, largest, max_weight, *settings, need_weight
    )
    many = y if one.is_x else x
    out, ends, _, spread = definition.iqe_forward_outputs(many, many, max_weight, *settings, True)
    _forward(x, y, max_weight, (out, ends, None, spread), one.num_rows, one.sharing, *settings)
    iqe_one_row.write_gradients(one, grad_out, ends, largest, max_weight, *settings, grad_x, grad_y)
    if need_weight:
        parts = grad_out.double(), spread.view_as(grad_out), max_weight
        grad_max_weight = definition.weight_gradient(*parts, weight_link).to(x.dtype)
    return grad_x, grad_y, grad_max_weight


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    for dim_per_component, num_components in ((1, 7), (5, 3), (1024, 1), (16, 32)):
        for reduction in ("maxmean", "none"):
            arguments = _constants(num_components, dim_per_component, reduction, "sigmoid")
            arguments |= {"ends_ptr": torch.uint8, "largest_ptr": torch.int32, "rows_per_x": 1, "rows_per_y": 1}
            arguments["max_weight_ptr"] = dtype if reduction == "maxmean" else None
            yield iqe_backward_kernel, arguments
            arguments |= {"HIGHEST": torch.finfo(dtype).max, "KEEP": reduction == "maxmean"}
            yield iqe_forward_kernel, arguments | ({} if reduction == "maxmean" else {"spread_ptr": None})
    arguments["spread_ptr"] = None
    yield iqe_forward_kernel, arguments | {"rows_per_x": 1500, "REDUCTION": "max"}
    if dtype is torch.float32:
        arguments |= dict.fromkeys(("x_ptr", "y_ptr", "grad_x_ptr", "grad_y_ptr"), torch.bfloat16)
        yield iqe_backward_kernel, arguments
        yield iqe_forward_kernel, arguments | {"KEEP": True}

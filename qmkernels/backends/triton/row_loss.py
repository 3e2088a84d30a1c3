"""Losses over rows of distances in Triton: the functions of backends/reference/row_loss.py, in the same order.

Forward: one kernel from embeddings to each row's slope and each program's sums of the terms, and one program that
finishes them; with a mask, torch counts the rows kept first. Backward: one kernel from what forward kept to both
gradients, and for maxmean one program for that of its weight.

Precision: arithmetic in the input's dtype, float32 for half precision, except that powers other than squares are taken
in double; sums over rows in double; no atomics, so the same input gives the same bits.

Cost: that of the head's kernels (iqe.py, mrn.py), which read the embeddings once; a few numbers per row are added.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...arguments.iqe import IqeSettings
from ...arguments.mrn import MrnSettings
from ...arguments.row_loss import RowLossSettings
from ...definitions import row_loss as definition
from ...definitions.iqe import keeps_largest
from . import mrn_components
from .iqe_components import reduced
from .iqe_rows import over_components, row_tile
from .mrn_components import row_distance, store_row_gradients
from .row_terms import count_of, store_row_terms
from .tiles import component_tile
from .two_distances import SUM_BLOCK, mean_of, pair_gradients, store_coordinates, store_weight_gradient


@triton.jit
def row_loss_sums_kernel(
    sums_ptr,  # float64 (4, num_programs)
    count_ptr,  # int64 (), None without a mask
    loss_ptr,  # ()
    stats_ptr,  # (3)
    num_programs,
    num_rows,
    BLOCK: tl.constexpr,
):
    count = count_of(count_ptr, num_rows)
    tl.store(loss_ptr, mean_of(sums_ptr, 0, num_programs, count, BLOCK))
    for number in tl.static_range(1, 4):
        tl.store(stats_ptr + number - 1, mean_of(sums_ptr, number, num_programs, count, BLOCK))


@triton.jit
def row_loss_iqe_forward_kernel(
    x_ptr,  # (num_rows, C * K)
    y_ptr,  # (num_rows, C * K)
    max_weight_ptr,  # (): None unless maxmean
    target_ptr,  # (num_rows) or (1)
    weight_ptr,  # (num_rows) or None
    mask_ptr,  # (num_rows) or None
    count_ptr,  # int64 (), with a mask
    slopes_ptr,  # (num_rows)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    spread_ptr,  # (num_rows), for maxmean
    sums_ptr,  # float64 (4, programs)
    num_rows,
    num_components,
    HIGHEST: tl.constexpr,
    K: tl.constexpr,
    REDUCTION: tl.constexpr,
    LINK: tl.constexpr,
    TARGET_OF_EACH: tl.constexpr,
    FORM: tl.constexpr,
    BETA: tl.constexpr,
    POWER: tl.constexpr,
    EXPECTILE: tl.constexpr,
    HUBER_DELTA: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_K: tl.constexpr,  # K or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total, greatest, largest = over_components(
        x_ptr, y_ptr, None, ends_ptr, row, num_rows, num_components, HIGHEST, K, REDUCTION, True, ROWS, BLOCK_C, BLOCK_K
    )
    if largest_ptr is not None:
        tl.store(largest_ptr + row, largest, mask=row < num_rows)
    if spread_ptr is not None:
        spread = reduced(total, greatest, max_weight_ptr, 0, num_components, "spread", LINK)
        tl.store(spread_ptr + row, spread, mask=row < num_rows)
    store_row_terms(
        reduced(total, greatest, max_weight_ptr, 0, num_components, REDUCTION, LINK), row, target_ptr, weight_ptr,
        mask_ptr, count_ptr, slopes_ptr, sums_ptr, num_rows, TARGET_OF_EACH, FORM, BETA, POWER, EXPECTILE, HUBER_DELTA,
    )  # fmt: skip


@triton.jit
def row_loss_iqe_backward_kernel(
    grad_loss_ptr,  # ()
    slopes_ptr,  # (num_rows)
    ends_ptr,  # uint8 (num_rows, C, ceil(2K / 8))
    largest_ptr,  # int32 (num_rows), for a reduction by the maximum
    max_weight_ptr,  # (): None unless maxmean
    grad_x_ptr,  # (num_rows, C * K)
    grad_y_ptr,  # (num_rows, C * K)
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
    grad_x, grad_y = pair_gradients(
        0, grad_loss_ptr, slopes_ptr, ends_ptr, largest_ptr, max_weight_ptr, row, component, num_rows, num_components,
        K, REDUCTION, LINK, BLOCK_K,
    )  # fmt: skip
    store_coordinates(grad_x_ptr, grad_x, row, component, num_rows, num_components, K, BLOCK_K)
    store_coordinates(grad_y_ptr, grad_y, row, component, num_rows, num_components, K, BLOCK_K)


@triton.jit
def row_loss_mrn_forward_kernel(
    x_ptr,  # (num_rows, C, S)
    y_ptr,  # (num_rows, C, S)
    target_ptr,  # (num_rows) or (1)
    weight_ptr,  # (num_rows) or None
    mask_ptr,  # (num_rows) or None
    count_ptr,  # int64 (), with a mask
    slopes_ptr,  # (num_rows)
    sums_ptr,  # float64 (4, programs)
    num_rows,
    num_components,
    WEIGHT: tl.constexpr,  # this and the following: as in mrn.py
    S: tl.constexpr,
    FIRST_A: tl.constexpr,
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,
    END_B: tl.constexpr,
    COUNT: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
    BY_COMPONENT: tl.constexpr,
    TARGET_OF_EACH: tl.constexpr,
    FORM: tl.constexpr,
    BETA: tl.constexpr,
    POWER: tl.constexpr,
    EXPECTILE: tl.constexpr,
    HUBER_DELTA: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components at a time
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    distance = row_distance(
        x_ptr, y_ptr, None, row, num_rows, num_components, WEIGHT, S, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS,
        EPS_FORM, EXPONENT, BY_COMPONENT, ROWS, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    store_row_terms(
        distance, row, target_ptr, weight_ptr, mask_ptr, count_ptr, slopes_ptr, sums_ptr, num_rows, TARGET_OF_EACH,
        FORM, BETA, POWER, EXPECTILE, HUBER_DELTA,
    )  # fmt: skip


@triton.jit
def row_loss_mrn_backward_kernel(
    grad_loss_ptr,  # ()
    slopes_ptr,  # (num_rows)
    x_ptr,  # (num_rows, C, S)
    y_ptr,  # (num_rows, C, S)
    grad_x_ptr,  # (num_rows, C, S)
    grad_y_ptr,  # (num_rows, C, S)
    num_rows,
    num_components,
    WEIGHT: tl.constexpr,  # this and the following: as in mrn.py
    S: tl.constexpr,
    FIRST_A: tl.constexpr,
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,
    END_B: tl.constexpr,
    COUNT: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
    BY_COMPONENT: tl.constexpr,
    ROWS: tl.constexpr,  # rows per program
    BLOCK_C: tl.constexpr,  # components per program
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    component = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    by_distance = tl.load(grad_loss_ptr) * tl.load(slopes_ptr + row, mask=row < num_rows, other=0)
    store_row_gradients(
        (by_distance * WEIGHT)[:, None], x_ptr, y_ptr, grad_x_ptr, grad_y_ptr, row, component, num_rows, num_components,
        S, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS, EPS_FORM, EXPONENT, BLOCK_S,
    )  # fmt: skip


def _form_constants(settings: RowLossSettings, target_of_each: bool) -> dict:
    return {"TARGET_OF_EACH": target_of_each} | {name.upper(): value for name, value in settings._asdict().items()}


def _iqe_constants(settings: IqeSettings, num_components: int) -> dict:
    names = {"K": settings.dim_per_component, "REDUCTION": settings.reduction, "LINK": settings.weight_link}
    return names | row_tile(num_components, settings.dim_per_component)


def _mrn_launch(settings: MrnSettings, dim: int) -> tuple[dict, tuple[int, int]]:
    """Returns the constants of a launch, and its rows and components per program."""
    size = dim // settings.num_components
    tile = component_tile(settings.num_components, size)
    return mrn_components.constants(settings, size) | tile.constants("BLOCK_S"), (tile.rows, tile.block_c)


def _forward(kernel, inputs: tuple, others: tuple, outputs: tuple, num_components: int, constants: dict) -> None:
    """Launches a head's forward kernel and the one that finishes its sums."""
    target, weight, mask = others
    loss, stats, *kept = outputs
    num_rows = inputs[0].shape[0]
    num_programs = triton.cdiv(num_rows, constants["ROWS"])
    sums = loss.new_empty(4, num_programs, dtype=torch.float64)
    count = None if mask is None else mask.count_nonzero()
    with torch.cuda.device_of(loss):
        kernel[(num_programs,)](
            *inputs, target, weight, mask, count, *kept, sums, num_rows, num_components, **constants
        )
        row_loss_sums_kernel[(1,)](sums, count, loss, stats, num_programs, num_rows, BLOCK=SUM_BLOCK)


def row_loss_iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, target: Tensor, weight: Tensor | None, mask: Tensor | None,
    *settings,
) -> tuple[Tensor, ...]:  # fmt: skip
    outputs = definition.row_loss_iqe_forward_outputs(x, y, max_weight, target, weight, mask, *settings)
    iqe, form = IqeSettings(*settings[:3]), RowLossSettings(*settings[3:])
    num_components = x.shape[1] // iqe.dim_per_component
    constants = _iqe_constants(iqe, num_components) | _form_constants(form, target.numel() > 1)
    constants["HIGHEST"] = torch.finfo(outputs[0].dtype).max
    _forward(
        row_loss_iqe_forward_kernel, (x, y, max_weight), (target, weight, mask), outputs, num_components, constants
    )
    return outputs


def row_loss_iqe_backward(
    grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor, max_weight: Tensor | None,
    like: Tensor, *iqe,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    grads = definition.row_loss_iqe_backward_outputs(grad_loss, slopes, ends, largest, spread, max_weight, like, *iqe)
    grad_x, grad_y, grad_max_weight = grads
    iqe, (num_rows, num_components, _) = IqeSettings(*iqe), ends.shape
    constants = _iqe_constants(iqe, num_components)
    blocks = triton.cdiv(num_rows, constants["ROWS"]), triton.cdiv(num_components, constants["BLOCK_C"])
    with torch.cuda.device_of(slopes):
        row_loss_iqe_backward_kernel[blocks](
            grad_loss, slopes, ends, largest if keeps_largest(iqe.reduction) else None, max_weight, grad_x, grad_y,
            num_rows, num_components, **constants,
        )  # fmt: skip
        if max_weight is not None:
            store_weight_gradient(grad_loss, slopes, spread, max_weight, iqe.weight_link, grad_max_weight)
    return grads


def row_loss_mrn_forward(
    x: Tensor, y: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = definition.row_loss_mrn_forward_outputs(x, y, target, weight, mask)
    fields = len(MrnSettings._fields)
    mrn, form = MrnSettings(*settings[:fields]), RowLossSettings(*settings[fields:])
    constants, _ = _mrn_launch(mrn, x.shape[1])
    constants |= _form_constants(form, target.numel() > 1)
    _forward(row_loss_mrn_forward_kernel, (x, y), (target, weight, mask), outputs, mrn.num_components, constants)
    return outputs


def row_loss_mrn_backward(grad_loss: Tensor, slopes: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.row_loss_mrn_backward_outputs(grad_loss, slopes, x, y)
    mrn, (num_rows, dim) = MrnSettings(*settings), x.shape
    constants, (rows, components) = _mrn_launch(mrn, dim)
    blocks = triton.cdiv(num_rows, rows), triton.cdiv(mrn.num_components, components)
    with torch.cuda.device_of(slopes):
        row_loss_mrn_backward_kernel[blocks](
            grad_loss, slopes, x, y, grad_x, grad_y, num_rows, mrn.num_components, **constants
        )
    return grad_x, grad_y


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """Yields what is compiled ahead of time: kernels and the arguments of a launch, dtypes in place of tensors."""
    dtypes = {"sums_ptr": torch.float64, "count_ptr": torch.int64, "ends_ptr": torch.uint8, "largest_ptr": torch.int32}
    unmasked = {"weight_ptr": None, "mask_ptr": None, "count_ptr": None}
    unweighted = {"max_weight_ptr": None, "largest_ptr": None, "spread_ptr": None}
    yield row_loss_sums_kernel, dtypes | {"BLOCK": SUM_BLOCK}
    yield row_loss_sums_kernel, dtypes | {"BLOCK": SUM_BLOCK, "count_ptr": None}
    smooth, huber, power = (
        RowLossSettings(), RowLossSettings("expectile", expectile=0.9, huber_delta=1.0),
        RowLossSettings("apart", power=1.5),
    )  # fmt: skip
    for iqe, num_components, form, arguments in (
        (IqeSettings(5, "sum", "identity"), 3, smooth, dtypes | unmasked | unweighted | {"num_rows": 1}),
        (IqeSettings(16, "maxmean", "sigmoid"), 32, huber, dtypes),
    ):
        constants = _iqe_constants(iqe, num_components)
        highest = {"HIGHEST": torch.finfo(dtype).max}
        yield row_loss_iqe_forward_kernel, arguments | constants | highest | _form_constants(form, form is huber)
        yield row_loss_iqe_backward_kernel, arguments | constants
    for mrn, dim, form, arguments in (
        (MrnSettings(8, eps=1e-6, reduction="mean"), 512, RowLossSettings("relative"), dtypes),
        (MrnSettings(exponent=1.5), 2047, power, dtypes | unmasked),
    ):
        constants, _ = _mrn_launch(mrn, dim)
        yield row_loss_mrn_forward_kernel, arguments | constants | _form_constants(form, True)
        yield row_loss_mrn_backward_kernel, arguments | constants
    if dtype is torch.float32:
        arguments |= dict.fromkeys(("x_ptr", "y_ptr", "grad_x_ptr", "grad_y_ptr"), torch.bfloat16)
        constants, _ = _mrn_launch(MrnSettings(), 512)
        yield row_loss_mrn_forward_kernel, arguments | constants | _form_constants(smooth, True)
        yield row_loss_mrn_backward_kernel, arguments | constants
        constants = _iqe_constants(IqeSettings(8, "sum"), 64)
        yield row_loss_iqe_forward_kernel, arguments | unweighted | constants | highest | _form_constants(smooth, True)
        yield row_loss_iqe_backward_kernel, arguments | unweighted | constants

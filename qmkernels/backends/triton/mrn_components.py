"""The arithmetic of MRN's components on tiles, and the constants of its forms."""

from __future__ import annotations

import triton
import triton.language as tl

from ...arguments.mrn import MrnSettings
from .tiles import component_offsets


@triton.jit
def power_of(value, POWER: tl.constexpr):
    """Returns value ** POWER for positive values."""
    dtype: tl.constexpr = value.dtype
    result = value
    if POWER == 0.0:
        result = tl.zeros_like(value) + 1
    elif POWER == 0.5 or POWER == -0.5:
        # The exact root, which Triton offers for float32, where tl.sqrt is approximate.
        result = tl.sqrt_rn(value) if dtype == tl.float32 else tl.sqrt(value)
        if POWER == -0.5:
            result = 1 / result
    elif POWER != 1.0:
        # In double, because a float32 logarithm times POWER would lose digits. Rare, and only once per component.
        result = tl.exp(tl.log(value.to(tl.float64)) * POWER).to(dtype)
    return result


@triton.jit
def symmetric_part(
    squares,  # sums of squared differences
    COUNT: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
):
    """Returns (squares / COUNT, with eps) ** (EXPONENT / 2)."""
    eps = tl.full((), EPS, squares.dtype)
    value = squares / COUNT
    if EPS_FORM == "add":
        value += eps
    elif EPS_FORM == "max":
        value = tl.where(value < eps, eps, value)
    if EXPONENT != 2.0:
        is_zero = value == 0
        value = tl.where(is_zero, 0.0, power_of(tl.where(is_zero, 1.0, value), EXPONENT / 2))
    return value


@triton.jit
def split_sums(
    difference,  # (ROWS, BLOCK_C, BLOCK_S), 0 beyond a component's values
    FIRST_A: tl.constexpr,
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,
    END_B: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
):
    """Returns what a component's distance and gradient need.

    These are: the largest rectified difference and its index, the first of equal ones; 0, or NaN if an asymmetric
    difference is NaN, which a maximum would lose; the shifted symmetric differences; and the sum of their squares.
    """
    s = tl.arange(0, difference.shape[2])[None, None, :]
    one_way = (s >= FIRST_A) & (s < END_A)
    largest, place = tl.max(tl.where(one_way & (difference > 0), difference, 0.0), axis=2, return_indices=True)
    unordered = tl.sum(tl.where(one_way & (difference != difference), difference, 0.0), axis=2)
    shifted = difference
    if EPS_FORM == "difference":
        shifted = difference + tl.full((), EPS, difference.dtype)
    shifted = tl.where((s >= FIRST_B) & (s < END_B), shifted, 0.0)
    return largest, place, unordered, shifted, tl.sum(shifted * shifted, axis=2)


@triton.jit
def gradient_by_x(
    weight,  # (ROWS, BLOCK_C) or (ROWS, 1): grad_out times the reduction's weight
    difference,  # (ROWS, BLOCK_C, BLOCK_S): x - y, 0 beyond a component's values
    FIRST_A: tl.constexpr,
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,
    END_B: tl.constexpr,
    COUNT: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
):
    """Returns the gradient by x, in the shape of difference; that by y is its negative."""
    largest, place, unordered, shifted, squares = split_sums(difference, FIRST_A, END_A, FIRST_B, END_B, EPS, EPS_FORM)
    # slope = d symmetric part / d (squares / 2) = p / COUNT * value ** (p / 2 - 1), 0 where the part is constant
    eps = tl.full((), EPS, difference.dtype)
    value = squares / COUNT
    moves = value != 0
    if EPS_FORM == "add":
        value += eps
        moves = value > 0
    elif EPS_FORM == "max":
        moves = value > eps
    moves = moves | (value != value)
    slope = power_of(tl.where(moves, value, 1.0), EXPONENT / 2 - 1) * (EXPONENT / COUNT)
    grad = (weight * tl.where(moves, slope, 0.0))[:, :, None] * shifted
    if FIRST_A != END_A:
        s = tl.arange(0, difference.shape[2])[None, None, :]
        push = tl.where(largest > 0, weight, 0.0) + unordered
        # A product, as in the reference, so that NaN reaches the whole asymmetric part.
        of_one_way = (s == place[:, :, None]).to(difference.dtype) * push[:, :, None]
        grad = tl.where((s >= FIRST_A) & (s < END_A), of_one_way, grad)
    return grad


@triton.jit
def row_distance(
    x_ptr,  # (num_rows / rows_per_x, C, S)
    y_ptr,  # (num_rows / rows_per_y, C, S)
    components_ptr,  # (num_rows, C), with BY_COMPONENT
    row,  # int64 (ROWS)
    num_rows,
    num_components,
    WEIGHT: tl.constexpr,
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
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    rows_per_x=1,  # neighbouring rows that share a row of x
    rows_per_y=1,
):
    """Returns the rows' distances, or with BY_COMPONENT stores their components."""
    dtype: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((ROWS,), dtype)
    for first_component in range(0, num_components, BLOCK_C):
        component = first_component + tl.arange(0, BLOCK_C)
        exists = (row < num_rows)[:, None] & (component < num_components)[None, :]
        of_x, is_value = component_offsets(row // rows_per_x, component, num_components, S, BLOCK_S)
        of_y, _ = component_offsets(row // rows_per_y, component, num_components, S, BLOCK_S)
        mask = exists[:, :, None] & is_value
        x = tl.load(x_ptr + of_x, mask=mask, other=0).to(dtype)
        difference = x - tl.load(y_ptr + of_y, mask=mask, other=0).to(dtype)
        # max_A relu(x - y) + (sum_B (x - y)^2) ** (p / 2)
        largest, _, unordered, _, squares = split_sums(difference, FIRST_A, END_A, FIRST_B, END_B, EPS, EPS_FORM)
        part = largest + unordered
        if FIRST_B != END_B:
            part += symmetric_part(squares, COUNT, EPS, EPS_FORM, EXPONENT)
        if BY_COMPONENT:
            tl.store(components_ptr + row[:, None] * num_components + component[None, :], part * WEIGHT, mask=exists)
        else:
            total += tl.sum(tl.where(exists, part, 0.0), axis=1)
    return total * WEIGHT


@triton.jit
def store_row_gradients(
    weight,  # (ROWS, BLOCK_C) or (ROWS, 1): grad_out times the reduction's weight
    x_ptr,  # (num_rows, C, S)
    y_ptr,  # (num_rows, C, S)
    grad_x_ptr,  # (num_rows, C, S)
    grad_y_ptr,  # (num_rows, C, S)
    row,  # int64 (ROWS)
    component,  # (BLOCK_C)
    num_rows,
    num_components,
    S: tl.constexpr,
    FIRST_A: tl.constexpr,
    END_A: tl.constexpr,
    FIRST_B: tl.constexpr,
    END_B: tl.constexpr,
    COUNT: tl.constexpr,
    EPS: tl.constexpr,
    EPS_FORM: tl.constexpr,
    EXPONENT: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    exists = (row < num_rows)[:, None] & (component < num_components)[None, :]
    here, is_value = component_offsets(row, component, num_components, S, BLOCK_S)
    mask = exists[:, :, None] & is_value
    x = tl.load(x_ptr + here, mask=mask, other=0).to(weight.dtype)
    difference = x - tl.load(y_ptr + here, mask=mask, other=0).to(weight.dtype)
    grad = gradient_by_x(weight, difference, FIRST_A, END_A, FIRST_B, END_B, COUNT, EPS, EPS_FORM, EXPONENT)
    tl.store(grad_x_ptr + here, grad, mask=mask)
    tl.store(grad_y_ptr + here, -grad, mask=mask)


def constants(settings: MrnSettings, size: int) -> dict[str, int | float | str]:
    """Returns the constants that all kernels of a form take, for components of ``size`` values."""
    half = size // 2
    one_way, both_ways = {"first": ((0, half), (half, size)), "second": ((half, size), (0, half))}.get(
        settings.asymmetric, ((0, 0), (0, size))
    )
    return {
        "WEIGHT": settings.scale / settings.num_components if settings.reduction == "mean" else settings.scale,
        "S": size,
        "FIRST_A": one_way[0],
        "END_A": one_way[1],
        "FIRST_B": both_ways[0],
        "END_B": both_ways[1],
        "COUNT": max(both_ways[1] - both_ways[0], 1) if settings.squares == "mean" else 1,
        "EPS": float(settings.eps),
        "EPS_FORM": settings.eps_form,
        "EXPONENT": float(settings.exponent),
        "BY_COMPONENT": settings.reduction == "none",
    }


# Settings and values per component that cover the kernels' branches; these are compiled ahead of time.
COMPILED = (
    (MrnSettings(8, eps=1e-6, reduction="mean"), 64),
    (MrnSettings(asymmetric="second", squares="mean", eps=1e-12, eps_form="max", reduction="none"), 512),
    (MrnSettings(100, "none", exponent=2.0, eps=1e-8, eps_form="difference"), 1),
    (MrnSettings(exponent=1.5), 2047),
)

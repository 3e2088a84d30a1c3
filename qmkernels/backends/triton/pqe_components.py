"""The arithmetic of PQE-LH's components on tiles."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of_program(
    num_rows,
    num_weights,  # runs of rows, each with its own weights
    ROWS: tl.constexpr,  # rows per program
):
    """Returns the rows of a program, all in one run, int64 (ROWS,), which of them exist, and the run."""
    rows_per_run = num_rows // num_weights
    blocks = tl.cdiv(rows_per_run, ROWS)
    run = (tl.program_id(0) // blocks).to(tl.int64)
    in_run = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return run * rows_per_run + in_run, in_run < rows_per_run, run


@triton.jit
def component_of(mean):
    """Returns 1 - exp(mean) for a mean <= 0, without cancellation near 0; exactly 0 at 0."""
    # -expm1(m) = -m (1 + m/2 (1 + m/3 (1 + ...))): enough terms for |m| <= 1/2.
    TERMS: tl.constexpr = 9 if mean.dtype == tl.float32 else 15
    series = tl.zeros_like(mean) + 1
    for n in tl.static_range(TERMS, 1, -1):
        series = 1 + series * mean * (1.0 / n)
    return tl.where(mean > -0.5, 0 - mean * series, 1 - tl.exp(mean))


@triton.jit
def mean_exceeding(
    difference,  # (ROWS, BLOCK_C, BLOCK_K): y - x, 0 beyond a component's values
    K: tl.constexpr,
):
    """Returns mean_k min(y_k - x_k, 0), (ROWS, BLOCK_C)."""
    # Written so that an unordered comparison keeps NaN.
    return tl.sum(tl.where(difference > 0, 0.0, difference), axis=2) / K


@triton.jit
def gradient_by_x(
    weight,  # (ROWS, BLOCK_C) or (ROWS, 1): grad_out, times the component's weight
    mean,  # (ROWS, BLOCK_C)
    difference,  # (ROWS, BLOCK_C, BLOCK_K): y - x
    K: tl.constexpr,
):
    """Returns the gradient by x, in the shape of difference; that by y is its negative."""
    # A product, as in the reference, so that NaN reaches every value of the component.
    return (weight * (tl.exp(mean) / K))[:, :, None] * (1 - (difference > 0).to(mean.dtype))


_ONE = {"num_weights": 1}
_WITHOUT = {"weights_ptr": None, "grad_weights_ptr": None, **_ONE}
# Components, values per component, and arguments that are None or 1; these are compiled ahead of time.
COMPILED = (
    (128, 4, {}),
    (128, 4, _ONE),
    (128, 4, {"grad_weights_ptr": None, **_ONE}),
    (7, 1, _WITHOUT),
    (3, 33, _WITHOUT),
    (1, 1024, _ONE),
)

"""The toy op in Triton: the functions of backends/reference/toy.py. A program takes a row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...definitions import toy as definition

BLOCK = 128


@triton.jit
def toy_forward_kernel(x_ptr, y_ptr, out_ptr, dim, factor_ptr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    sums = tl.zeros((BLOCK,), x_ptr.dtype.element_ty)
    for first in range(0, dim, BLOCK):
        column = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * dim + column, mask=column < dim, other=0)
        y = tl.load(y_ptr + row * dim + column, mask=column < dim, other=0)
        sums += tl.abs(x - y)
    tl.store(out_ptr + row, tl.load(factor_ptr) * tl.sum(sums, axis=0))


@triton.jit
def toy_backward_kernel(grad_out_ptr, x_ptr, y_ptr, grad_x_ptr, grad_y_ptr, dim, factor_ptr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    grad = tl.load(factor_ptr) * tl.load(grad_out_ptr + row)
    for first in range(0, dim, BLOCK):
        column = first + tl.arange(0, BLOCK)
        at = row * dim + column
        x = tl.load(x_ptr + at, mask=column < dim, other=0)
        y = tl.load(y_ptr + at, mask=column < dim, other=0)
        slope = tl.where(x > y, grad, tl.where(x < y, -grad, 0))
        tl.store(grad_x_ptr + at, slope, mask=column < dim)
        tl.store(grad_y_ptr + at, -slope, mask=column < dim)


def toy_forward(x: Tensor, y: Tensor, factor: float) -> Tensor:
    out = definition.toy_forward_outputs(x, y, factor)
    if out.numel():
        with torch.cuda.device_of(x):
            toy_forward_kernel[(out.numel(),)](x, y, out, x.shape[-1], x.new_full((), factor), BLOCK=BLOCK)
    return out


def toy_backward(grad_out: Tensor, x: Tensor, y: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.toy_backward_outputs(grad_out, x, y, factor)
    if x.numel():
        with torch.cuda.device_of(x):
            toy_backward_kernel[(grad_out.numel(),)](
                grad_out, x, y, grad_x, grad_y, x.shape[-1], x.new_full((), factor), BLOCK=BLOCK
            )
    return grad_x, grad_y


def launches(dtype: torch.dtype) -> Iterator[tuple[triton.JITFunction, dict]]:
    """What is compiled ahead of time: kernels, and arguments of a launch; of tensors their dtypes."""
    yield toy_forward_kernel, {"BLOCK": BLOCK}
    yield toy_backward_kernel, {"BLOCK": BLOCK}

"""Samples of a vmapped dimension: one after the other, or as more rows of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .autograd import Op
    from .functions import Tensors


def one_by_one(run: Callable, tensors: Tensors, dims: tuple, size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Runs each sample of the vmapped dimension and stacks the results; also returns their vmapped dimensions."""
    # unbind, not select: the gradient of a selection is as large as the whole tensor.
    samples = [
        (tensor,) * size if tensor is None or dim is None else tensor.unbind(dim)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    results = [run(*sample) for sample in zip(*samples, strict=True)]
    outputs = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs, (0,) * len(outputs)


def batch_first(op: Op, tensors: Tensors, dims: list, size: int, offset: int = 0) -> list[Tensor | None]:
    """Moves the vmapped dimension of rows to the front, or expands rows that have none. ``offset`` tensors precede."""
    moved = []
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        if tensor is None or i - offset == op.parameter or tensor.shape == (0,):
            moved.append(tensor)
        else:
            moved.append(tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0))
    return moved


def one_parameter_each(op: Op, tensors: Tensors, dims: list, size: int, always: bool = False) -> tuple[Tensors, bool]:
    """Gives each sample of the vmapped dimension its own parameter, ahead of the runs of rows, if samples differ in it,
    a sample has several, or ``always``; returns the tensors and whether it did."""
    place = op.parameter
    parameter = None if place is None else tensors[place]
    if parameter is None:
        return tensors, False
    dim = dims[place]
    if dim is None and parameter.dim() == op.parameter_dims and not always:
        return tensors, False
    parameter = parameter.expand(size, *parameter.shape) if dim is None else parameter.movedim(dim, 0)
    if parameter.dim() > op.parameter_dims + 1:
        parameter = parameter.flatten(0, 1)
    return (*tensors[:place], parameter, *tensors[place + 1 :]), True

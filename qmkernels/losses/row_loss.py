"""Losses over rows of a distance and a target: by one kernel where the head has one, else composed of ops."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from ..arguments.row_loss import RowLossSettings
from ..backends import dispatch
from ..definitions import row_loss as definition
from ..definitions.dtypes import compute_dtype
from ..definitions.row_loss import RowLossStats
from ..ops.arguments import check_float, constant
from ..ops.row_loss import row_loss as by_kernel
from ..ops.torch_internals import in_function_transform
from . import checks


def row_loss(
    head: checks.Head, x: Tensor, y: Tensor, target: Tensor | float, weight: Tensor | None, mask: Tensor | None,
    settings: RowLossSettings,
) -> tuple[Tensor, RowLossStats]:  # fmt: skip
    """Returns the loss and its detached diagnostics, given checked rows (..., B, D), and target, weight and mask, each
    a tensor that broadcasts to (..., B), or for the target a number."""
    per_row = [value for value in (target, weight) if isinstance(value, Tensor)]
    find = getattr(head, "fused_rows", None)
    fused = None
    # Under vmap the head's own kernel takes all samples at once, that of the loss one after the other.
    if find is not None and not in_function_transform() and not any(value.requires_grad for value in per_row):
        fused = find(x, y)
    if fused is None:
        distance = head(x, y)
        target = target.to(distance.dtype) if isinstance(target, Tensor) else constant(target, distance)
        return definition.row_loss(distance, target, weight, mask, settings)
    op, x, y, parameters, head_settings = fused
    rows = x.shape[:-1]
    if len(rows) > 1:
        x, y = x.flatten(0, -2), y.flatten(0, -2)
    target = constant(target, x, 1) if not isinstance(target, Tensor) else _flat(target, rows, x)
    weight, mask = (None if value is None else _flat(value, rows, x) for value in (weight, mask))
    tensors = x, y, *parameters, target, weight, mask
    loss, stats = by_kernel[op](tensors, (*head_settings, *settings), dispatch.requested(None))
    return loss, RowLossStats(*stats.unbind())


def _flat(value: Tensor, rows: tuple[int, ...], like: Tensor) -> Tensor:
    if value.shape != rows:
        value = value.expand(rows)
    return value.reshape(-1).to(compute_dtype(like))


def at_least(
    loss: str, x: Tensor, name: str, value: Tensor | float, least: float, above: bool = False
) -> Tensor | float:
    """Returns a number as a float, or one number per row of ``x`` (..., B, D) in the dtype of distances; ValueError for
    another shape, or a number below ``least`` or, with ``above``, not above it."""
    if isinstance(value, Tensor):
        _check_per_row(loss, x, name, value)
        return value.to(compute_dtype(x))
    if not isinstance(value, Real):
        raise TypeError(f"{loss}: {name} must be a number or a tensor, got {type(value).__name__}.")
    value = float(value)
    if not (value > least or (value == least and not above)):
        raise ValueError(f"{loss}: {name} must be {'above' if above else 'at least'} {least:g}, got {value:g}.")
    return value


def weight_per_row(loss: str, x: Tensor, weight: Tensor | None) -> Tensor | None:
    """Returns the weight in the dtype of distances; raises unless it is None or a float tensor that fits x's rows."""
    if weight is None:
        return None
    check_float(loss, "weight", weight)
    _check_per_row(loss, x, "weight", weight)
    return weight.to(compute_dtype(x))


def check_flags(loss: str, x: Tensor, name: str, flags: Tensor | None) -> None:
    """Raises unless ``flags`` is None or a bool tensor that fits x's rows."""
    if flags is None:
        return
    if not isinstance(flags, Tensor) or flags.dtype is not torch.bool:
        kind = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise TypeError(f"{loss}: {name} must be a bool tensor, got {kind}; convert it first, for example {name} != 0.")
    _check_per_row(loss, x, name, flags)


def _check_per_row(loss: str, x: Tensor, name: str, value: Tensor) -> None:
    if value.device != x.device:
        raise RuntimeError(f"{loss}: {name} must be on {x.device}, like x, got {value.device}.")
    checks.check_per_row(loss, name, value, x.shape[:-1])

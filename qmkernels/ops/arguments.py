"""Checks that every distance makes of its arguments before any work: what was wanted, what came, what to do."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_embeddings(op: str, x: Tensor, y: Tensor) -> None:
    """x and y are float tensors of one dtype and device with the same last size, at least 1."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}.")
        if value.dtype not in _FLOAT_DTYPES:
            raise TypeError(
                f"{op}: {name} must be float64, float32, bfloat16 or float16, got {value.dtype}; "
                f"convert it first, for example {name}.float()."
            )
        if value.dim() == 0:
            raise ValueError(f"{op}: {name} must have shape (..., D), got a tensor without dimensions.")
    if x.dtype != y.dtype:
        raise TypeError(f"{op}: x and y must have the same dtype, got x {x.dtype} and y {y.dtype}; convert one.")
    if x.device != y.device:
        raise RuntimeError(f"{op}: x and y must be on the same device, got x on {x.device} and y on {y.device}.")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"{op}: x and y must have the same last size, got x {tuple(x.shape)} and y {tuple(y.shape)}.")
    if x.shape[-1] == 0:
        raise ValueError(f"{op}: x and y must have at least one value in the last dimension, got {tuple(x.shape)}.")


def check_components(op: str, size: int, dim_per_component: int) -> None:
    """dim_per_component is a positive int that divides size."""
    if isinstance(dim_per_component, bool) or not isinstance(dim_per_component, (int, torch.SymInt)):
        raise TypeError(f"{op}: dim_per_component must be an int, got {type(dim_per_component).__name__}.")
    if dim_per_component < 1:
        raise ValueError(f"{op}: dim_per_component must be at least 1, got {dim_per_component}.")
    if size % dim_per_component != 0:
        raise ValueError(
            f"{op}: the last size must be a multiple of dim_per_component, got {size} and {dim_per_component}."
        )


def check_choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """value is one of choices."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}.")


def scalar_like(op: str, name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """value, a number or a 0-d tensor, as a 0-d tensor of like's dtype and device; a tensor keeps its gradient."""
    if not isinstance(value, Tensor):
        return like.new_full((), float(value))
    if value.dim() != 0:
        raise ValueError(f"{op}: {name} must be a number or a tensor without dimensions, got {tuple(value.shape)}.")
    if value.device != like.device:
        raise RuntimeError(f"{op}: {name} must be on {like.device} as x is, got {value.device}.")
    return value if value.dtype == like.dtype else value.to(like.dtype)


def in_compute_dtype(x: Tensor) -> Tensor:
    """Half inputs in float32, through which gradients come back in the input's dtype; others as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)

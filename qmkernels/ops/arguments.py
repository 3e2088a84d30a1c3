"""Checks of the arguments of ops, made before any work; errors say what was wanted, what came and what to do."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..arguments.checks import check_embedding_sizes, different_dtypes, wrong_dtype
from ..backends.native import core
from ..definitions.dtypes import HALF, compute_dtype
from .torch_internals import has_plain_tensors, is_ordinary

_FLOAT_DTYPES = (torch.float32, torch.float64, *HALF)
_DENSE = torch.strided


def is_float(value: object) -> bool:
    """Returns whether `check_float` passes, at little cost: every op and loss asks on every call."""
    return isinstance(value, Tensor) and value.dtype in _FLOAT_DTYPES and value.layout is _DENSE and not value.is_nested


def check_float(op: str, name: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a dense tensor of a dtype that the kernels support."""
    if is_float(value):
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}.")
    if value.is_nested or value.layout is not _DENSE:
        layout = "a nested tensor" if value.is_nested else f"one of layout {value.layout}"
        raise TypeError(f"{op}: {name} must be a dense tensor, got {layout}; convert it first.")
    raise wrong_dtype(op, name, value.dtype, "float()")


def check_floats(op: str, **tensors: Tensor) -> None:
    """Raises unless two tensors are dense float tensors of one dtype and device."""
    (first, x), (second, y) = tensors.items()
    if _are_alike(x, y):
        return
    for name, value in tensors.items():
        check_float(op, name, value)
    if x.dtype != y.dtype:
        raise different_dtypes(op, **{first: x.dtype, second: y.dtype})
    if x.device != y.device:
        raise RuntimeError(
            f"{op}: {first} and {second} must be on the same device, got {first} on {x.device} and {second} on "
            f"{y.device}; move one."
        )


def _are_alike(x: object, y: object) -> bool:
    """Returns whether `check_floats` passes, at little cost: every distance asks on every call."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return False
    dtype = x.dtype
    if y.dtype is not dtype or dtype not in _FLOAT_DTYPES or x.device != y.device:
        return False
    return x.layout is _DENSE and y.layout is _DENSE and not (x.is_nested or y.is_nested)


def check_embeddings(op: str, x: Tensor, y: Tensor) -> None:
    """Raises unless x and y are float tensors of one dtype and device with the same last size, at least 1."""
    if has_plain_tensors() and core.are_embeddings(x, y):
        return
    if not (_are_alike(x, y) and x.dim() and y.dim() and x.shape[-1] == y.shape[-1] != 0):
        check_floats(op, x=x, y=y)
        check_embedding_sizes(op, x.shape, y.shape)


def tensor_like(op: str, name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """Returns a number or tensor as a tensor of like's compute dtype; a tensor keeps its gradient, and must be on
    like's device.
    """
    if not isinstance(value, Tensor):
        return constant(float(value), like)
    dtype = compute_dtype(like)
    if value.dtype is dtype and value.device == like.device:
        return value
    if value.device != like.device:
        raise RuntimeError(f"{op}: {name} must be on {like.device}, like x, got {value.device}.")
    return value.to(dtype)


def constant(value: float, like: Tensor, *shape: int) -> Tensor:
    """Returns a number as a tensor of like's compute dtype and its device; on a CPU it is cached, because making it
    costs as much as a small kernel, unless a mode, such as that of fake tensors, would make it a tensor of its kind."""
    dtype = compute_dtype(like)
    if torch.compiler.is_compiling() or not like.is_cpu or not is_ordinary((like,)):
        return like.new_full(shape, value, dtype=dtype)
    return _constant(value, dtype, shape)


@lru_cache(maxsize=64)
def _constant(value: float, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.full(shape, value, dtype=dtype, device="cpu")

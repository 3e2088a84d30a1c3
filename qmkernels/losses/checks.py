"""Checks of arguments, shared by the losses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..backends.native import core
from ..ops.arguments import check_float, is_float
from ..ops.torch_internals import has_plain_tensors

Head = Callable[[Tensor, Tensor], Tensor]


def check_rows(loss: str, **tensors: Tensor) -> None:
    """Raises unless the tensors are float tensors (..., B, D) of one shape, dtype and device, with at least one row."""
    if has_plain_tensors() and core.are_batches(*tensors.values()):
        return
    (first, like), *others = tensors.items()
    for name, value in tensors.items():
        check_float(loss, name, value)
        if value.dim() < 2:
            raise ValueError(f"{loss}: {name} must be (..., B, D), got {tuple(value.shape)}.")
        if value.numel() == 0:
            raise ValueError(f"{loss}: {name} must have at least one row and one value, got {tuple(value.shape)}.")
    for name, value in others:
        if value.shape != like.shape:
            raise ValueError(
                f"{loss}: {first} and {name} must have the same shape, got {tuple(like.shape)} and "
                f"{tuple(value.shape)}."
            )
        check_alike(loss, **{first: like, name: value})


def check_alike(loss: str, **tensors: Tensor) -> None:
    """Raises unless two tensors have the same dtype and device."""
    (name, value), (other_name, other) = tensors.items()
    names = f"{name} and {other_name}"
    if value.dtype != other.dtype:
        raise TypeError(f"{loss}: {names} must have the same dtype, got {value.dtype} and {other.dtype}; convert one.")
    if value.device != other.device:
        raise RuntimeError(
            f"{loss}: {names} must be on the same device, got {value.device} and {other.device}; move one."
        )


def per_row(loss: str, name: str, value: Tensor | float, like: Tensor) -> Tensor | float:
    """Returns a number as a float, or one number per row in the dtype of the distances ``like`` (..., B)."""
    if not isinstance(value, Tensor):
        return float(value)
    check_per_row(loss, name, value, like.shape)
    return value.to(like.dtype)


def check_per_row(loss: str, name: str, value: Tensor, rows: tuple[int, ...]) -> None:
    """Raises unless a tensor holds one number, or one per row of the shape ``rows``, (..., B), or of its last sizes."""
    if value.dim() and value.shape != rows[-value.dim() :]:
        raise ValueError(f"{loss}: {name} must be a number or one per row, {tuple(rows)}, got {tuple(value.shape)}.")


def check_multiplier(loss: str, name: str, value: Tensor, like: Tensor) -> None:
    """Raises unless ``value`` is a 0-d float tensor on the embeddings' device."""
    if is_float(value) and value.dim() == 0 and value.device == like.device:
        return
    check_float(loss, name, value)
    if value.dim() != 0:
        raise ValueError(f"{loss}: {name} must be a 0-d tensor, got {tuple(value.shape)}.")
    if value.device != like.device:
        raise RuntimeError(f"{loss}: {name} must be on {like.device}, like the embeddings, got {value.device}.")


def check_head(loss: str, head: Head) -> None:
    """Raises unless ``head`` can be called and returns distances."""
    if not callable(head):
        raise TypeError(f"{loss}: head must be a module or function of x and y, got {type(head).__name__}.")
    if getattr(head, "discount", None) is not None:
        raise ValueError(f"{loss}: head must return distances, got one with discount={head.discount}; make it without.")

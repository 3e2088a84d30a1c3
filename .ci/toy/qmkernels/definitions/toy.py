"""The city-block distance times a factor, in plain PyTorch: the definition of the op ``toy``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .shapes import empty


class ToySettings(NamedTuple):
    factor: float = 1.0


def toy(x: Tensor, y: Tensor, factor: float) -> Tensor:
    return factor * (x - y).abs().sum(dim=-1)


def gradient(grad_out: Tensor, x: Tensor, y: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The derivatives of (grad_out * toy(x, y)).sum() by x and by y; 0 where x and y are equal."""
    grad_x = factor * grad_out.unsqueeze(-1) * ((x > y).to(x.dtype) - (x < y).to(x.dtype))
    return grad_x, -grad_x


def toy_forward_outputs(x: Tensor, y: Tensor, factor: float) -> Tensor:
    return empty(x, *x.shape[:-1])


def toy_backward_outputs(grad_out: Tensor, x: Tensor, y: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y)

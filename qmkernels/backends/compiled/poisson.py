"""Poisson comparisons on the compiled core, CPU and CUDA. The contract: reference/poisson.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...reference.poisson import FORMS
from .. import native


def poisson_forward(a: Tensor, b: Tensor, form: str) -> Tensor:
    out = torch.empty_like(a)
    if out.numel():
        native.launch("poisson_forward", a.device, a.element_size(), a, b, out, a.numel(), FORMS.index(form))
    return out


def poisson_backward(grad_out: Tensor, a: Tensor, b: Tensor, form: str) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    if a.numel():
        native.launch(
            "poisson_backward", a.device, a.element_size(), grad_out, a, b, grad_a, grad_b, a.numel(), FORMS.index(form)
        )
    return grad_a, grad_b

"""MRN on the compiled core, CPU and CUDA: allocates with torch, computes in csrc. The contract: reference/mrn.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...reference.mrn import ASYMMETRIC, EPS_FORMS, REDUCTIONS, SQUARES
from .. import native


def _codes(num_components, asymmetric, squares, exponent, eps, eps_form, reduction, scale) -> tuple:
    """The form as numbers; a name is its place in the tuple that lists the names."""
    return (
        num_components, ASYMMETRIC.index(asymmetric), SQUARES.index(squares), exponent, eps,
        EPS_FORMS.index(eps_form), REDUCTIONS.index(reduction), scale,
    )  # fmt: skip


def mrn_forward(x: Tensor, y: Tensor, *form) -> Tensor:
    rows = x.shape[:-1]
    out = x.new_empty((*rows, form[0]) if form[6] == "none" else rows)
    if out.numel():
        native.launch(
            "mrn_forward", x.device, x.element_size(), x, y, out, rows.numel(), x.shape[-1], *_codes(*form)
        )  # fmt: skip
    return out


def mrn_backward(grad_out: Tensor, x: Tensor, y: Tensor, *form) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    if x.numel():
        native.launch(
            "mrn_backward", x.device, x.element_size(),
            grad_out, x, y, grad_x, grad_y, x.shape[:-1].numel(), x.shape[-1], *_codes(*form),
        )  # fmt: skip
    return grad_x, grad_y


def _workspace(x: Tensor, y: Tensor, form: tuple, backward: bool) -> Tensor:
    sizes = (*x.shape[:2], y.shape[1], x.shape[2], form[0])
    return native.scratch(native.call("mrn_pairwise_workspace", x.device, x.element_size(), *sizes, backward), x.device)


def mrn_pairwise_forward(x: Tensor, y: Tensor, *form) -> Tensor:
    pairs = (x.shape[0], x.shape[1], y.shape[1])
    out = x.new_empty((*pairs, form[0]) if form[6] == "none" else pairs)
    if out.numel():
        native.launch(
            "mrn_pairwise_forward", x.device, x.element_size(),
            x, y, out, _workspace(x, y, form, False), *pairs, x.shape[2], *_codes(*form),
        )  # fmt: skip
    return out


def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *form) -> tuple[Tensor, Tensor]:
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y)
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
    native.launch(
        "mrn_pairwise_backward", x.device, x.element_size(),
        grad_out, x, y, grad_x, grad_y, _workspace(x, y, form, True), *x.shape[:2], y.shape[1], x.shape[2],
        *_codes(*form),
    )  # fmt: skip
    return grad_x, grad_y

"""MRN on the compiled core, CPU and CUDA. The contract: backends/reference/mrn.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ...definitions import mrn as definition
from ...definitions.mrn import ASYMMETRIC, EPS_FORMS, REDUCTIONS, SQUARES
from . import core


def _codes(num_components, asymmetric, squares, exponent, eps, eps_form, reduction, scale) -> tuple:
    """The form as numbers; a name is its place in the tuple that lists the names."""
    return (
        num_components, ASYMMETRIC.index(asymmetric), SQUARES.index(squares), exponent, eps,
        EPS_FORMS.index(eps_form), REDUCTIONS.index(reduction), scale,
    )  # fmt: skip


def mrn_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    rows, out = x.shape[:-1], definition.mrn_forward_outputs(x, y, *settings)
    if out.numel():
        core.launch(
            "mrn_forward", x.device, x.element_size(), x, y, out, rows.numel(), x.shape[-1], *_codes(*settings)
        )  # fmt: skip
    return out


def mrn_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    if x.numel():
        core.launch(
            "mrn_backward", x.device, x.element_size(),
            grad_out, x, y, grad_x, grad_y, x.shape[:-1].numel(), x.shape[-1], *_codes(*settings),
        )  # fmt: skip
    return grad_x, grad_y


def _workspace(x: Tensor, y: Tensor, settings: tuple, backward: bool) -> Tensor:
    sizes = (*x.shape[:2], y.shape[1], x.shape[2], settings[0])
    return core.scratch(core.call("mrn_pairwise_workspace", x.device, x.element_size(), *sizes, backward), x.device)


def mrn_pairwise_forward(x: Tensor, y: Tensor, *settings) -> Tensor:
    pairs = (x.shape[0], x.shape[1], y.shape[1])
    out = definition.mrn_pairwise_forward_outputs(x, y, *settings)
    if out.numel():
        core.launch(
            "mrn_pairwise_forward", x.device, x.element_size(),
            x, y, out, _workspace(x, y, settings, False), *pairs, x.shape[2], *_codes(*settings),
        )  # fmt: skip
    return out


def mrn_pairwise_backward(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    if not grad_out.numel():
        return torch.zeros_like(x), torch.zeros_like(y)
    grad_x, grad_y = definition.mrn_backward_outputs(grad_out, x, y, *settings)
    core.launch(
        "mrn_pairwise_backward", x.device, x.element_size(),
        grad_out, x, y, grad_x, grad_y, _workspace(x, y, settings, True), *x.shape[:2], y.shape[1], x.shape[2],
        *_codes(*settings),
    )  # fmt: skip
    return grad_x, grad_y

"""Losses over rows of a distance and a target as one op, from embeddings to loss; the losses over rows call it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments.iqe import IqeSettings
from ..arguments.mrn import MrnSettings
from ..arguments.row_loss import RowLossSettings
from ..definitions import row_loss as definition
from ..definitions.iqe import iqe, weights_of_rows
from ..definitions.mrn import mrn
from .autograd import Op
from .registration import Kernel, schema_of

_ROWS = "Tensor target, Tensor? weight, Tensor? mask"
_FORM = f"{schema_of(RowLossSettings)}, str backend"


def _of_distance(distance: Tensor, target, weight, mask, settings: tuple) -> tuple[Tensor, Tensor]:
    loss, stats = definition.row_loss(distance, target, weight, mask, RowLossSettings(*settings))
    return loss, torch.stack(stats)


def _iqe_composed(x, y, max_weight, target, weight, mask, *settings) -> tuple[Tensor, Tensor]:
    dim_per_component, reduction, link = settings[:3]
    weights = weights_of_rows(max_weight, link, x.shape[:1])
    distance = iqe(x, y, dim_per_component, reduction=reduction, max_weight=weights)
    return _of_distance(distance, target, weight, mask, settings[3:])


def _mrn_composed(x, y, target, weight, mask, *settings) -> tuple[Tensor, Tensor]:
    fields = len(MrnSettings._fields)
    return _of_distance(mrn(x, y, MrnSettings(*settings[:fields])), target, weight, mask, settings[fields:])


def _iqe_backward(run, grad_loss, saved, settings, needs):
    x, _, max_weight, _, _, _, *kept = saved
    grad_x, grad_y, grad_max_weight = run(grad_loss, *kept, max_weight, x, *settings[:3])
    return grad_x, grad_y, None if max_weight is None else grad_max_weight, None, None, None


def _mrn_backward(run, grad_loss, saved, settings, needs):
    x, y, *_, slopes = saved
    return *run(grad_loss, slopes, x, y, *settings[: len(MrnSettings._fields)]), None, None, None


# By the name of the head's op: maps x, y, the head's parameter if it may have one, target, weight and mask, all checked
# and from the third on in the compute dtype, and the settings of the head and then of the loss to loss and stats
# (backends/reference/row_loss.py). There is no gradient by target, weight and mask.
row_loss = {
    "iqe": Op(
        "RowLossIqe",
        Kernel(
            "row_loss",
            f"row_loss_iqe_forward(Tensor x, Tensor y, Tensor? max_weight, {_ROWS}, {schema_of(IqeSettings)}, {_FORM})"
            " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            definition.row_loss_iqe_forward_outputs,
        ),
        Kernel(
            "row_loss",
            "row_loss_iqe_backward(Tensor grad_loss, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
            f" Tensor? max_weight, Tensor like, {schema_of(IqeSettings)}, str backend) -> (Tensor, Tensor, Tensor)",
            definition.row_loss_iqe_backward_outputs,
        ),
        plain=_iqe_composed,
        saved=lambda tensors, outputs: (*tensors, *outputs[2:]),
        backward=_iqe_backward,
        num_results=2,
        parameter=2,
        fixed=(3, 4, 5),
    ),
    "mrn": Op(
        "RowLossMrn",
        Kernel(
            "row_loss",
            f"row_loss_mrn_forward(Tensor x, Tensor y, {_ROWS}, {schema_of(MrnSettings)}, {_FORM})"
            " -> (Tensor, Tensor, Tensor)",
            definition.row_loss_mrn_forward_outputs,
        ),
        Kernel(
            "row_loss",
            f"row_loss_mrn_backward(Tensor grad_loss, Tensor slopes, Tensor x, Tensor y, {schema_of(MrnSettings)},"
            " str backend) -> (Tensor, Tensor)",
            definition.row_loss_mrn_backward_outputs,
        ),
        plain=_mrn_composed,
        saved=lambda tensors, outputs: (*tensors, outputs[2]),
        backward=_mrn_backward,
        num_results=2,
        fixed=(2, 3, 4),
    ),
}

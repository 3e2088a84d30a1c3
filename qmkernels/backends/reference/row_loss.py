"""Losses over rows of distances on the reference backend, and what every backend's functions take and return.

All tensors are contiguous, on one device, float32 or float64, x and y also in half precision, as for IQE and MRN.
``*settings`` are the fields of the head's settings, ``definitions.iqe.IqeSettings`` or ``definitions.mrn.MrnSettings``,
and then of ``definitions.row_loss.RowLossSettings``, in order. x and y are (B, D), ``target`` is (B) or (1), one for
all rows; ``weight`` and ``mask``, of which 0 leaves a row out, are (B) or None. ``max_weight`` is 0-d, as for IQE, None
unless the reduction is maxmean. A tensor that is not needed is None.

``loss``     0-d.
``stats``    (3,): the fields of ``definitions.row_loss.RowLossStats``.
``slopes``   (B,): the derivative of the loss by each distance; 0 in rows that are left out.
``ends``, ``largest``, ``spread``   as for IQE.
"""

from __future__ import annotations

from torch import Tensor

from ...arguments.mrn import MrnSettings
from ...arguments.row_loss import RowLossSettings
from ...definitions import row_loss as definition
from . import iqe, mrn


def row_loss_iqe_forward(
    x: Tensor, y: Tensor, max_weight: Tensor | None, target: Tensor, weight: Tensor | None, mask: Tensor | None,
    *settings,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns ``loss, stats, slopes, ends, largest, spread``."""
    distance, *kept = iqe.iqe_forward(x, y, max_weight, *settings[:3], True)
    return *definition.loss_and_slopes(distance, target, weight, mask, RowLossSettings(*settings[3:])), *kept


def row_loss_iqe_backward(
    grad_loss: Tensor, slopes: Tensor, ends: Tensor, largest: Tensor, spread: Tensor, max_weight: Tensor | None,
    like: Tensor, *settings,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Returns ``grad_x``, ``grad_y`` (B, D), in the dtype of ``like``, which is x's, and ``grad_max_weight``, 0-d, None
    without a weight; takes the settings of IQE."""
    need_weight = max_weight is not None
    return iqe.iqe_backward(grad_loss * slopes, ends, largest, spread, max_weight, *settings, need_weight)


def row_loss_mrn_forward(
    x: Tensor, y: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None, *settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``loss, stats, slopes``."""
    fields = len(MrnSettings._fields)
    distance = mrn.mrn_forward(x, y, *settings[:fields])
    return definition.loss_and_slopes(distance, target, weight, mask, RowLossSettings(*settings[fields:]))


def row_loss_mrn_backward(grad_loss: Tensor, slopes: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Returns ``grad_x`` and ``grad_y`` (B, D); takes the settings of MRN."""
    return mrn.mrn_backward(grad_loss * slopes, x, y, *settings)

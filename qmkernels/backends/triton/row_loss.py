"""Losses over rows of distances on Triton: the head's kernels, and torch for the numbers per row."""

from __future__ import annotations

from functools import partial

from ...definitions import row_loss as definition
from . import iqe, mrn

row_loss_iqe_forward = partial(definition.iqe_forward_with, iqe)
row_loss_iqe_backward = partial(definition.iqe_backward_with, iqe)
row_loss_mrn_forward = partial(definition.mrn_forward_with, mrn)
row_loss_mrn_backward = partial(definition.mrn_backward_with, mrn)

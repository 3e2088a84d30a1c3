"""Heads that a loss's kernel computes itself."""

from __future__ import annotations

from torch import Tensor

from ..nn.iqe import FusedIqe
from . import checks


def fused_iqe(head: checks.Head, x: Tensor) -> FusedIqe | None:
    """Returns the head as an IQE that a loss's kernel computes for rows of x's size, or None if the loss must call the
    head."""
    find = getattr(head, "fused_iqe", None)
    return None if find is None else find(x)

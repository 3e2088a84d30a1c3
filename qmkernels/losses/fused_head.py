"""The head of a loss as a part of one kernel."""

from __future__ import annotations

from torch import Tensor

from ..nn.iqe import FusedIqe
from ..ops.torch_internals import in_function_transform
from . import checks


def fused_iqe(head: checks.Head, x: Tensor) -> FusedIqe | None:
    """The head as an IQE that a loss's kernel computes of rows of x's size; None where the loss is composed of calls of
    the head, as under torch.func's transforms, which the kernels of losses know nothing of."""
    find = getattr(head, "fused_iqe", None)
    return None if find is None or in_function_transform() else find(x)

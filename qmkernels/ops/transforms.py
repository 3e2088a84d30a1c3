"""What torch's function transforms need to know: is a derivative being recorded, and where is the batch dimension."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def records_derivative(*tensors: Tensor | None) -> bool:
    """Whether any of the tensors takes part in a derivative: backward, forward mode or a torch.func transform."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def batch_first(tensor: Tensor, dimension: int | None, size: int) -> Tensor:
    """The vmapped dimension in front; a tensor without one is expanded."""
    return tensor.expand(size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)


def can_call_op_directly() -> bool:
    """In a backward pass: whether nothing will differentiate or vmap it in turn, so that a Function is not needed.

    torch.compile's backward passes are not differentiated again; autograd's only under create_graph, which enables grad
    mode; torch.func's always may be.
    """
    if torch.compiler.is_compiling():
        return True
    return not torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is None

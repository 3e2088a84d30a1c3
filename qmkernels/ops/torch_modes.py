"""What torch's function transforms need to know: is a derivative being recorded, and where is the batch dimension."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _in_functorch() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def apply(function: type[torch.autograd.Function], *arguments):
    """``function.apply(*arguments)``, without the 25 us that torch spends on binding default arguments.

    There are none here. torch.compile and torch.func take the ordinary road.
    """
    if torch.compiler.is_compiling() or _in_functorch():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def records_derivative(*tensors: Tensor | None) -> bool:
    """Whether any of the tensors takes part in a derivative: backward, forward mode or a torch.func transform."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or _in_functorch()


def in_function_transform() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is under way."""
    return not torch.compiler.is_compiling() and (forward_ad._current_level >= 0 or _in_functorch())


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
    return not torch.is_grad_enabled() and not _in_functorch()

"""A loss's op and its gradient op as one autograd.Function: tensors to a scalar, and back.

Forward and backward are the ops'; derivatives of derivatives follow from ``composed``, the loss in plain PyTorch. Under
torch.func's transforms, which the Functions know nothing of, the losses are composed by their callers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from .torch_modes import apply, can_call_op_directly, records_derivative


def loss_function(
    name: str,
    forward_op: Callable,
    gradients: Callable,
    composed: Callable[..., Tensor],
    *,
    num_tensors: int,
    kept_from: int,
) -> Callable[..., tuple[Tensor, ...]]:
    """What calls a loss's op with its tensors, its settings and the backend's name, and returns the op's results.

    Args:
        name: of the Function, in graphs and profiles.
        forward_op: ``(*tensors, *settings, backend)`` to the loss and other results, which are not differentiable:
            diagnostics, and what backward needs. A tensor may be None.
        gradients: ``(grad_loss, tensors, kept, settings, needs)`` to one gradient, or None, for each tensor: calls the
            gradient op; the last setting is the backend. ``needs`` says which gradients are wanted.
        composed: ``(*tensors, *settings)``, without the backend, to the loss.
        num_tensors, kept_from: how many tensors there are, and from which result on they are ``kept`` for backward.
    """

    class Loss(Function):
        @staticmethod
        def forward(*arguments):
            return forward_op(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.settings = inputs[num_tensors:]
            ctx.mark_non_differentiable(*output[1:])
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*inputs[:num_tensors], *output[kept_from:])

        @staticmethod
        def backward(ctx, grad_loss, *_):
            rest = (None,) * len(ctx.settings)
            if grad_loss is None:
                return *(None,) * num_tensors, *rest
            needs, saved = ctx.needs_input_grad[:num_tensors], ctx.saved_tensors
            tensors = saved[:num_tensors]
            if can_call_op_directly():
                grads = gradients(grad_loss, tensors, saved[num_tensors:], ctx.settings, needs)
                return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *rest
            wanted = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
            loss = composed(*tensors, *ctx.settings[:-1])
            found = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
            return *(next(found) if need else None for need in needs), *rest

    Loss.__name__ = Loss.__qualname__ = name

    def call(*arguments):
        return apply(Loss, *arguments) if records_derivative(*arguments[:num_tensors]) else forward_op(*arguments)

    return call

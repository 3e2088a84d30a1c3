"""A kernel and its gradient kernel as autograd.Functions that torch differentiates in every mode.

An op has tensors (x, y and perhaps a parameter), settings (numbers and strings) and one result. The kernels do forward
and backward; whatever is rarer (forward mode, the derivatives of the gradient, to any order) follows from ``gradient``,
the plain PyTorch formula of the gradient, which the backward kernel is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import dispatch
from .torch_modes import apply, batch_first, can_call_op_directly, records_derivative


def on_backend(op: str, function: str) -> Callable:
    """Runs a function of the op's backend: tensors, made contiguous, and settings; last comes the backend's name."""

    def run(*arguments):
        *arguments, backend = arguments
        arguments = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
        return getattr(dispatch.resolve(op, arguments[0].device.type, backend), function)(*arguments)

    return run


class KernelFunction(NamedTuple):
    """How an op runs: ``traced`` is what torch.compile sees, ``recorded`` what eager autograd records, and ``forward``
    the op itself, where nothing is recorded."""

    traced: type[Function]
    recorded: type[Function]
    forward: Callable[..., Tensor]
    num_tensors: int

    def __call__(self, *arguments) -> Tensor:
        """``arguments``: the tensors, the settings, and the backend's name."""
        if records_derivative(*arguments[: self.num_tensors]):
            return apply(self.traced if torch.compiler.is_compiling() else self.recorded, *arguments)
        return self.forward(*arguments)


def pairwise_gradient(gradient: Callable[..., tuple]) -> Callable[..., tuple]:
    """The gradient of all pairs of rows from that of matching rows: (B, N, D) and (B, M, D) in place of (..., D)."""

    def of_pairs(grad_out, x, y, *others):
        of_x, of_y, *of_others = gradient(grad_out, x.unsqueeze(2), y.unsqueeze(1), *others)
        return of_x.sum(dim=2), of_y.sum(dim=1), *of_others

    return of_pairs


def kernel_function(
    name: str, forward_op: Callable, backward_op: Callable, gradient: Callable, *, num_tensors: int, pairwise: bool
) -> KernelFunction:
    """Builds the Functions of an op.

    ``forward_op(*tensors, *settings, backend)`` returns the result. ``backward_op(grad_out, *tensors, *settings,
    needs, backend)`` returns one gradient a tensor; ``needs`` says whether that of a parameter, the third tensor, is
    wanted; without a third tensor ``needs`` is left out. ``gradient(grad_out, *tensors, *settings)`` is the same in
    plain PyTorch, differentiable. A third tensor may be None and is the same for all rows.
    """
    with_parameter = num_tensors == 3

    def plain_gradient(*arguments):
        """The formula as a function of grad_out and the tensors that there are, and these tensors."""
        tensors, settings = arguments[:num_tensors], arguments[num_tensors:-1]
        given = [tensor for tensor in tensors if tensor is not None]

        def formula(grad_out, *given):
            filled = (*given, *(None,) * (num_tensors - len(given)))
            return gradient(grad_out, *filled, *settings)[: len(given)]

        return formula, given

    def run_backward(grad_out, needs, arguments):
        call = backward_op if can_call_op_directly() else Backward.apply
        extra = (needs,) if with_parameter else ()
        return call(grad_out, *arguments[:-1], *extra, arguments[-1])

    class Forward(Function):
        @staticmethod
        def forward(*arguments):
            return forward_op(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.settings = inputs[num_tensors:]
            ctx.save_for_backward(*inputs[:num_tensors])

        @staticmethod
        def backward(ctx, grad_out):
            needs = ctx.needs_input_grad
            grads = run_backward(grad_out, with_parameter and needs[2], (*ctx.saved_tensors, *ctx.settings))
            grads = [grad if need else None for grad, need in zip(grads, needs[:num_tensors], strict=True)]
            return *grads, *(None,) * len(ctx.settings)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            size = info.batch_size
            if with_parameter and in_dims[2] is not None:
                return _one_by_one(Recorded.apply, size, in_dims, arguments), 0
            x, y, *rest = arguments
            if not pairwise:
                x, y = batch_first(x, in_dims[0], size), batch_first(y, in_dims[1], size)
                return Recorded.apply(x, y, *rest), 0
            if in_dims[1] is None:  # more rows of x against the same y
                place, x = 1, x.movedim(in_dims[0], 1).flatten(1, 2)
            elif in_dims[0] is None:  # more rows of y for the same x
                place, y = 2, y.movedim(in_dims[1], 1).flatten(1, 2)
            else:
                place, x, y = 0, x.movedim(in_dims[0], 0).flatten(0, 1), y.movedim(in_dims[1], 0).flatten(0, 1)
            out = Recorded.apply(x, y, *rest)
            return out.unflatten(place, (size, -1) if out.shape[place] else (size, 0)), place

    class Recorded(Forward):
        """With forward-mode derivatives; a Function with a jvp is more than torch.compile traces."""

        @staticmethod
        def setup_context(ctx, inputs, output):
            Forward.setup_context(ctx, inputs, output)
            ctx.save_for_forward(*inputs[:num_tensors])
            ctx.shape = output.shape

        @staticmethod
        def jvp(ctx, *tangents):
            # The gradient is linear in grad_out, and its transpose takes tangents to the tangent of the result.
            formula, given = plain_gradient(*ctx.saved_tensors, *ctx.settings)
            zeros = given[0].new_zeros(ctx.shape)
            _, transposed = torch.func.vjp(lambda grad_out: formula(grad_out, *given), zeros)
            tangents = [
                torch.zeros_like(tensor) if tangent is None else tangent
                for tensor, tangent in zip(given, tangents[: len(given)], strict=True)
            ]
            return transposed(tuple(tangents))[0]

    class Backward(Function):
        @staticmethod
        def forward(*arguments):
            return tuple(backward_op(*arguments))

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.settings = inputs[num_tensors + 1 :]
            ctx.save_for_backward(*inputs[: num_tensors + 1])
            ctx.save_for_forward(*inputs[: num_tensors + 1])

        @staticmethod
        def _formula(ctx):
            grad_out, *tensors = ctx.saved_tensors
            settings = (*ctx.settings[:-2], ctx.settings[-1]) if with_parameter else ctx.settings
            formula, given = plain_gradient(*tensors, *settings)
            return formula, (grad_out, *given)

        @staticmethod
        def backward(ctx, *tangents):
            formula, inputs = Backward._formula(ctx)
            out, transposed = torch.func.vjp(formula, *inputs)
            grads = transposed(tuple(_or_zeros(tangent, like) for tangent, like in zip(tangents, out, strict=False)))
            return *grads, *(None,) * (num_tensors + 1 - len(grads) + len(ctx.settings))

        @staticmethod
        def jvp(ctx, *tangents):
            formula, inputs = Backward._formula(ctx)
            filled = [_or_zeros(tangent, like) for tangent, like in zip(tangents, inputs, strict=False)]
            out, transposed = torch.func.vjp(formula, *inputs)
            # The derivative by forward mode as the transpose of the transpose.
            _, twice = torch.func.vjp(transposed, tuple(torch.zeros_like(part) for part in out))
            grads = twice(tuple(filled))[0]
            if with_parameter:
                wanted = len(grads) == num_tensors and ctx.settings[-2]
                return *grads[:2], grads[2] if wanted else grads[0].new_zeros(0)
            return grads

        @staticmethod
        def vmap(info, in_dims, *arguments):
            size = info.batch_size
            if with_parameter and (in_dims[3] is not None or arguments[-2]):
                grads = _one_by_one(Backward.apply, size, in_dims, arguments)
                return grads, (0,) * num_tensors
            grad_out, x, y, *rest = arguments
            rows = [batch_first(tensor, dim, size) for tensor, dim in zip((grad_out, x, y), in_dims, strict=False)]
            batch = rows[0].shape[1] if pairwise else 0
            if pairwise:
                rows = [tensor.flatten(0, 1) for tensor in rows]
            grads = list(Backward.apply(*rows, *rest))
            if pairwise:
                grads[:2] = [grad.unflatten(0, (size, batch)) for grad in grads[:2]]
            return tuple(grads), (0, 0, None)[:num_tensors]

    for function, suffix in ((Forward, ""), (Recorded, "ForwardMode"), (Backward, "Backward")):
        function.__name__ = function.__qualname__ = name + suffix
    return KernelFunction(Forward, Recorded, forward_op, num_tensors)


def _or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    """``tangent``, or zeros where there is none or the result that it belongs to was left empty."""
    return torch.zeros_like(like) if tangent is None or tangent.shape != like.shape else tangent


def _one_by_one(function: Callable, size: int, in_dims: tuple, arguments: tuple):
    """``function`` on each sample of the vmapped dimension; for what has no batched form."""
    samples = []
    for i in range(size):
        picked = (
            argument if dim is None else argument.select(dim, i)
            for argument, dim in zip(arguments, in_dims, strict=True)
        )
        samples.append(function(*picked))
    if isinstance(samples[0], Tensor):
        return torch.stack(samples)
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))

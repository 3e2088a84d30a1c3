"""IQE between matching rows under autograd: the registered ops, and Functions that differentiate them in every mode.

The distance is piecewise linear in x and y: its first derivatives are the ends that the forward pass found, the second
derivatives by x and y are zero, and what remains of higher orders runs through grad_out and max_weight. Forward-mode
derivatives, and those of the backward pass, are rare and composed of plain PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import dispatch
from ..backends.reference.iqe import unpack_ends
from .registration import register
from .torch_modes import batch_first, can_call_op_directly


def _run_forward(x, y, max_weight, dim_per_component, reduction, keep, backend):
    module = dispatch.resolve("iqe", x.device.type, backend)
    return module.iqe_forward(x.contiguous(), y.contiguous(), max_weight, dim_per_component, reduction, keep)


def _fake_forward(x, y, max_weight, dim_per_component, reduction, keep, backend):
    rows, num_components = x.shape[:-1], x.shape[-1] // dim_per_component
    with_largest = keep and largest_is_kept(reduction)
    return (
        x.new_empty((*rows, num_components) if reduction == "none" else rows),
        x.new_empty((*rows, num_components, (2 * dim_per_component + 7) // 8) if keep else 0, dtype=torch.uint8),
        x.new_empty(rows if with_largest else 0, dtype=torch.int32),
        x.new_empty(rows if keep and reduction == "maxmean" else 0),
    )


def _run_backward(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend):
    module = dispatch.resolve("iqe", grad_out.device.type, backend)
    return module.iqe_backward(
        grad_out.contiguous(), ends.contiguous(), largest.contiguous(), max_weight, dim_per_component, reduction
    )


def _fake_backward(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend):
    grad_x = grad_out.new_empty(*ends.shape[:-2], ends.shape[-2] * dim_per_component)
    return grad_x, torch.empty_like(grad_x)


iqe_forward = register(
    "iqe_forward(Tensor x, Tensor y, Tensor? max_weight, int dim_per_component, str reduction, bool keep, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run_forward,
    _fake_forward,
)
iqe_backward = register(
    "iqe_backward(Tensor grad_out, Tensor ends, Tensor largest, Tensor? max_weight, int dim_per_component,"
    " str reduction, str backend) -> (Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)


def reduced_tangent(tangents: Tensor, largest: Tensor, max_weight: Tensor | None, reduction: str) -> Tensor:
    """Derivatives of component lengths (..., C) to the derivative of the distance."""
    if reduction == "none":
        return tangents
    if reduction == "sum":
        return tangents.sum(dim=-1)
    mean = tangents.mean(dim=-1)
    if reduction == "mean":
        return mean
    of_largest = tangents.gather(-1, largest.long().unsqueeze(-1)).squeeze(-1)
    if reduction == "max":
        return of_largest
    spread = of_largest - mean
    return spread if reduction == "spread" else mean + max_weight * spread


def component_tangents(left: Tensor, right: Tensor, tangent_x: Tensor | None, tangent_y: Tensor | None) -> Tensor:
    """What the ends make of the tangents of x and y, (..., D): derivatives of component lengths (..., C)."""
    total = 0
    for ends, tangent, sign in ((left, tangent_x, -1), (right, tangent_y, 1)):
        if tangent is not None:
            total = total + sign * (ends * tangent.unflatten(-1, (-1, ends.shape[-1]))).sum(dim=-1)
    return total


def _backward(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend) -> tuple[Tensor, Tensor]:
    """The backward op; as a Function where it may have to be differentiated or vmapped in turn."""
    call = iqe_backward if can_call_op_directly() else IqeBackward.apply
    return call(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend)


def largest_is_kept(reduction: str) -> bool:
    """Whether forward keeps, for backward, which component is the largest."""
    return reduction in ("max", "maxmean", "spread")


def _weights(max_weight: Tensor, dimension: int, like: Tensor) -> Tensor:
    """One weight a sample of the vmapped dimension, shaped to multiply ``like``, whose first dimension it is."""
    return max_weight.movedim(dimension, 0).reshape(-1, *(1,) * (like.dim() - 1))


class Iqe(Function):
    """(x, y, max_weight) to (out, ends, largest, spread).

    ``spread`` is an output, so that the gradient of max_weight, which depends on it, is differentiable in turn. This
    class is what torch.compile traces: it does not support a Function with a jvp, which `IqeForwardMode` adds.
    """

    @staticmethod
    def forward(x, y, max_weight, dim_per_component, reduction, backend):
        return iqe_forward(x, y, max_weight, dim_per_component, reduction, True, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, max_weight, ctx.dim_per_component, ctx.reduction, ctx.backend = inputs
        _, ends, largest, spread = output
        if torch.compiler.is_compiling():
            # A compiled backward pass is not differentiated again, and would be handed zeros as the gradient of spread.
            ctx.mark_non_differentiable(ends, largest, spread)
        else:
            ctx.mark_non_differentiable(ends, largest)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ends, largest, spread, max_weight)

    @staticmethod
    def backward(ctx, grad_out, _grad_ends, _grad_largest, grad_spread):
        ends, largest, spread, max_weight = ctx.saved_tensors
        need_x, need_y, need_weight = ctx.needs_input_grad[:3]
        grad_x = grad_y = grad_max_weight = None
        if need_x or need_y:
            if grad_out is not None:
                grad_x, grad_y = _backward(
                    grad_out, ends, largest, max_weight, ctx.dim_per_component, ctx.reduction, ctx.backend
                )
            if grad_spread is not None and ctx.reduction == "maxmean" and not torch.compiler.is_compiling():
                more_x, more_y = _backward(
                    grad_spread, ends, largest, None, ctx.dim_per_component, "spread", ctx.backend
                )
                grad_x = more_x if grad_x is None else grad_x + more_x
                grad_y = more_y if grad_y is None else grad_y + more_y
        if need_weight and grad_out is not None:
            grad_max_weight = (grad_out * spread).sum()
        return grad_x if need_x else None, grad_y if need_y else None, grad_max_weight, None, None, None

    @staticmethod
    def vmap(info, in_dims, x, y, max_weight, dim_per_component, reduction, backend):
        size = info.batch_size
        x, y = batch_first(x, in_dims[0], size), batch_first(y, in_dims[1], size)
        if in_dims[2] is None:
            out = IqeForwardMode.apply(x, y, max_weight, dim_per_component, reduction, backend)
        else:
            # One weight a sample: maxmean is mean + weight * spread.
            mean, ends, _, _ = IqeForwardMode.apply(x, y, None, dim_per_component, "mean", backend)
            spread, _, largest, _ = IqeForwardMode.apply(x, y, None, dim_per_component, "spread", backend)
            out = mean + _weights(max_weight, in_dims[2], mean) * spread, ends, largest, spread
        return out, (0, 0, 0 if largest_is_kept(reduction) else None, 0 if reduction == "maxmean" else None)


class IqeForwardMode(Iqe):
    """`Iqe` with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        Iqe.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*output[1:], inputs[2])

    @staticmethod
    def jvp(ctx, tangent_x, tangent_y, tangent_weight, *_):
        ends, largest, spread, max_weight = ctx.saved_tensors
        left, right = unpack_ends(ends, ctx.dim_per_component)
        if tangent_x is None and tangent_y is None:
            tangents = spread.new_zeros(*ends.shape[:-1])
        else:
            tangents = component_tangents(left, right, tangent_x, tangent_y)
        of_out = reduced_tangent(tangents, largest, max_weight, ctx.reduction)
        of_spread = torch.zeros_like(spread)  # a float output must have a tangent
        if ctx.reduction == "maxmean":
            of_spread = reduced_tangent(tangents, largest, None, "spread")
            if tangent_weight is not None:
                of_out = of_out + tangent_weight * spread
        return of_out, None, None, of_spread


class IqeBackward(Function):
    """(grad_out, ends, largest, max_weight) to (grad_x, grad_y): linear in grad_out and in max_weight."""

    @staticmethod
    def forward(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend):
        return iqe_backward(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dim_per_component, ctx.reduction, ctx.backend = inputs[4:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx, tangent_x, tangent_y):
        if tangent_x is None and tangent_y is None:
            return (None,) * 7
        grad_out, ends, largest, max_weight = ctx.saved_tensors
        left, right = unpack_ends(ends, ctx.dim_per_component)
        tangents = component_tangents(left, right, tangent_x, tangent_y)
        grad_grad_out = reduced_tangent(tangents, largest, max_weight, ctx.reduction)
        grad_max_weight = None
        if ctx.needs_input_grad[3]:
            grad_max_weight = (grad_out * reduced_tangent(tangents, largest, None, "spread")).sum()
        return grad_grad_out, None, None, grad_max_weight, None, None, None

    @staticmethod
    def jvp(ctx, tangent_out, _ends, _largest, tangent_weight, *_):
        grad_out, ends, largest, max_weight = ctx.saved_tensors
        size, backend = ctx.dim_per_component, ctx.backend
        tangents = [grad_out.new_zeros(*ends.shape[:-2], ends.shape[-2] * size)] * 2
        if tangent_out is not None:
            tangents = IqeBackward.apply(tangent_out, ends, largest, max_weight, size, ctx.reduction, backend)
        if tangent_weight is not None:
            more = IqeBackward.apply(grad_out * tangent_weight, ends, largest, None, size, "spread", backend)
            tangents = [tangents[0] + more[0], tangents[1] + more[1]]
        return tuple(tangents)

    @staticmethod
    def vmap(info, in_dims, grad_out, ends, largest, max_weight, dim_per_component, reduction, backend):
        size = info.batch_size
        grad_out, ends = batch_first(grad_out, in_dims[0], size), batch_first(ends, in_dims[1], size)
        if largest_is_kept(reduction):
            largest = batch_first(largest, in_dims[2], size)
        if in_dims[3] is None:
            grads = IqeBackward.apply(grad_out, ends, largest, max_weight, dim_per_component, reduction, backend)
        else:
            weighted = grad_out * _weights(max_weight, in_dims[3], grad_out)
            of_mean = IqeBackward.apply(grad_out, ends, largest, None, dim_per_component, "mean", backend)
            of_spread = IqeBackward.apply(weighted, ends, largest, None, dim_per_component, "spread", backend)
            grads = of_mean[0] + of_spread[0], of_mean[1] + of_spread[1]
        return grads, (0, 0)

"""IQE between all pairs under autograd; the Functions mirror those of `iqe_autograd`.

Backward keeps x and y, and finds the ends again pair by pair; so do, row block by row block and in plain PyTorch, the
rare derivatives in forward mode and of the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import dispatch
from ..definitions import iqe as definition
from .iqe_autograd import component_tangents, largest_is_kept, reduced_tangent
from .registration import register
from .torch_modes import batch_first, can_call_op_directly

# Values that plain PyTorch works on at a time in `_tangent`: bounds its memory.
_TANGENT_BLOCK = 1 << 22


def _run_forward(x, y, max_weight, dim_per_component, reduction, keep, backend):
    module = dispatch.resolve("iqe", x.device.type, backend)
    return module.iqe_pairwise_forward(x.contiguous(), y.contiguous(), max_weight, dim_per_component, reduction, keep)


def _fake_forward(x, y, max_weight, dim_per_component, reduction, keep, backend):
    pairs = (x.shape[0], x.shape[1], y.shape[1])
    return (
        x.new_empty((*pairs, x.shape[-1] // dim_per_component) if reduction == "none" else pairs),
        x.new_empty(pairs if keep and largest_is_kept(reduction) else 0, dtype=torch.int32),
    )


def _run_backward(grad_out, x, y, largest, max_weight, dim_per_component, reduction, need_weight_gradient, backend):
    module = dispatch.resolve("iqe", x.device.type, backend)
    tensors = (tensor.contiguous() for tensor in (grad_out, x, y, largest))
    return module.iqe_pairwise_backward(*tensors, max_weight, dim_per_component, reduction, need_weight_gradient)


def _fake_backward(grad_out, x, y, largest, max_weight, dim_per_component, reduction, need_weight_gradient, backend):
    return x.new_empty(x.shape), y.new_empty(y.shape), x.new_empty(() if need_weight_gradient else 0)


iqe_pairwise_forward = register(
    "iqe_pairwise_forward(Tensor x, Tensor y, Tensor? max_weight, int dim_per_component, str reduction, bool keep,"
    " str backend) -> (Tensor, Tensor)",
    _run_forward,
    _fake_forward,
)
iqe_pairwise_backward = register(
    "iqe_pairwise_backward(Tensor grad_out, Tensor x, Tensor y, Tensor largest, Tensor? max_weight,"
    " int dim_per_component, str reduction, bool need_weight_gradient, str backend) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)


def _tangent(x: Tensor, y: Tensor, tangent_x: Tensor | None, tangent_y: Tensor | None, size: int) -> Tensor:
    """Derivatives (B, N, M, C) of the component lengths along tangents of x and y."""
    rows = max(1, _TANGENT_BLOCK // max(1, x.shape[0] * y.shape[1] * y.shape[2]))
    blocks = []
    for start in range(0, x.shape[1], rows):
        block = slice(start, start + rows)
        left, right = definition.slopes(*definition.ends(x[:, block, None], y[:, None], size))
        along_x = None if tangent_x is None else tangent_x[:, block, None]
        along_y = None if tangent_y is None else tangent_y[:, None]
        blocks.append(component_tangents(left, right, along_x, along_y))
    return torch.cat(blocks, dim=1)


def _spread(x: Tensor, y: Tensor, size: int, backend: str) -> Tensor:
    return IqePairwiseForwardMode.apply(x, y, None, size, "spread", backend)[0]


def _backward(grad_out, x, y, largest, max_weight, size, reduction, need_weight_gradient, backend):
    """The backward op; as a Function where it may have to be differentiated or vmapped in turn."""
    call = iqe_pairwise_backward if can_call_op_directly() else IqePairwiseBackward.apply
    return call(grad_out, x, y, largest, max_weight, size, reduction, need_weight_gradient, backend)


class IqePairwise(Function):
    """(x (B, N, D), y (B, M, D), max_weight) to (out, largest). What torch.compile traces: without a jvp."""

    @staticmethod
    def forward(x, y, max_weight, dim_per_component, reduction, backend):
        return iqe_pairwise_forward(x, y, max_weight, dim_per_component, reduction, True, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, max_weight, ctx.dim_per_component, ctx.reduction, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, output[1], max_weight)

    @staticmethod
    def backward(ctx, grad_out, _grad_largest):
        if grad_out is None:
            return (None,) * 6
        x, y, largest, max_weight = ctx.saved_tensors
        need_x, need_y, need_weight = ctx.needs_input_grad[:3]
        grad_x, grad_y, grad_max_weight = _backward(
            grad_out, x, y, largest, max_weight, ctx.dim_per_component, ctx.reduction, need_weight, ctx.backend
        )
        return (
            grad_x if need_x else None,
            grad_y if need_y else None,
            grad_max_weight if need_weight else None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info, in_dims, x, y, max_weight, dim_per_component, reduction, backend):
        size = info.batch_size
        if in_dims[2] is not None:
            # One weight a sample: maxmean is mean + weight * spread.
            x, y = batch_first(x, in_dims[0], size), batch_first(y, in_dims[1], size)
            (mean, _), dims = IqePairwise.vmap(info, (0, 0, None), x, y, None, dim_per_component, "mean", backend)
            (spread, largest), _ = IqePairwise.vmap(
                info, (0, 0, None), x, y, None, dim_per_component, "spread", backend
            )
            return (mean + max_weight.reshape(-1, 1, 1, 1) * spread, largest), (0, 0)
        apply = IqePairwiseForwardMode.apply
        settings = (max_weight, dim_per_component, reduction, backend)
        if in_dims[1] is None:  # more rows of x against the same y
            place = 1
            folded = apply(x.movedim(in_dims[0], 1).flatten(1, 2), y, *settings)
        elif in_dims[0] is None:  # more rows of y for the same x
            place = 2
            folded = apply(x, y.movedim(in_dims[1], 1).flatten(1, 2), *settings)
        else:
            place = 0
            folded = apply(x.movedim(in_dims[0], 0).flatten(0, 1), y.movedim(in_dims[1], 0).flatten(0, 1), *settings)
        out, largest = folded
        out = out.unflatten(place, (size, -1) if out.shape[place] else (size, 0))
        if not largest_is_kept(reduction):
            return (out, largest), (place, None)
        return (out, largest.unflatten(place, out.shape[place : place + 2])), (place, place)


class IqePairwiseForwardMode(IqePairwise):
    """`IqePairwise` with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        IqePairwise.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1], output[1], inputs[2])

    @staticmethod
    def jvp(ctx, tangent_x, tangent_y, tangent_weight, *_):
        x, y, largest, max_weight = ctx.saved_tensors
        tangent = 0
        if tangent_x is not None or tangent_y is not None:
            tangents = _tangent(x, y, tangent_x, tangent_y, ctx.dim_per_component)
            tangent = reduced_tangent(tangents, largest, max_weight, ctx.reduction)
        if tangent_weight is not None:
            tangent = tangent + tangent_weight * _spread(x, y, ctx.dim_per_component, ctx.backend)
        return tangent, None


class IqePairwiseBackward(Function):
    """(grad_out, x, y, largest, max_weight) to (grad_x, grad_y, grad_max_weight).

    grad_x and grad_y are piecewise constant in x and y; grad_max_weight = sum of grad_out * (max - mean) is not.
    """

    @staticmethod
    def forward(grad_out, x, y, largest, max_weight, dim_per_component, reduction, need_weight_gradient, backend):
        return iqe_pairwise_backward(
            grad_out, x, y, largest, max_weight, dim_per_component, reduction, need_weight_gradient, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dim_per_component, ctx.reduction, ctx.need_weight_gradient, ctx.backend = inputs[5:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])

    @staticmethod
    def backward(ctx, tangent_x, tangent_y, tangent_weight):
        grad_out, x, y, largest, max_weight = ctx.saved_tensors
        size, backend = ctx.dim_per_component, ctx.backend
        grad_grad_out = grad_x = grad_y = grad_max_weight = None
        if tangent_x is not None or tangent_y is not None:
            tangents = _tangent(x, y, tangent_x, tangent_y, size)
            grad_grad_out = reduced_tangent(tangents, largest, max_weight, ctx.reduction)
            if ctx.needs_input_grad[4]:
                grad_max_weight = (grad_out * reduced_tangent(tangents, largest, None, "spread")).sum()
        if tangent_weight is not None and ctx.need_weight_gradient:
            of_weight = tangent_weight * _spread(x, y, size, backend)
            grad_grad_out = of_weight if grad_grad_out is None else grad_grad_out + of_weight
            grad_x, grad_y, _ = IqePairwiseBackward.apply(
                grad_out * tangent_weight, x, y, largest, None, size, "spread", False, backend
            )
        return grad_grad_out, grad_x, grad_y, None, grad_max_weight, None, None, None, None

    @staticmethod
    def jvp(ctx, tangent_out, tangent_x, tangent_y, _largest, tangent_weight, *_):
        grad_out, x, y, largest, max_weight = ctx.saved_tensors
        size, reduction, backend = ctx.dim_per_component, ctx.reduction, ctx.backend
        of_x, of_y = torch.zeros_like(x), torch.zeros_like(y)
        of_weight = x.new_zeros(() if ctx.need_weight_gradient else 0)
        if tangent_out is not None:
            of_x, of_y, of_weight = IqePairwiseBackward.apply(
                tangent_out, x, y, largest, max_weight, size, reduction, ctx.need_weight_gradient, backend
            )
        if tangent_weight is not None:
            more_x, more_y, _ = IqePairwiseBackward.apply(
                grad_out * tangent_weight, x, y, largest, None, size, "spread", False, backend
            )
            of_x, of_y = of_x + more_x, of_y + more_y
        if ctx.need_weight_gradient and (tangent_x is not None or tangent_y is not None):
            tangents = _tangent(x, y, tangent_x, tangent_y, size)
            of_weight = of_weight + (grad_out * reduced_tangent(tangents, largest, None, "spread")).sum()
        return of_x, of_y, of_weight

    @staticmethod
    def vmap(
        info, in_dims, grad_out, x, y, largest, max_weight, dim_per_component, reduction, need_weight_gradient, backend
    ):
        size = info.batch_size
        grad_out, x, y = (
            batch_first(tensor, dimension, size)
            for tensor, dimension in zip((grad_out, x, y), in_dims[:3], strict=True)
        )
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        if largest_is_kept(reduction):
            largest = batch_first(largest, in_dims[3], size).flatten(0, 1)

        def gradients(grad, weight, reduction):
            grad_x, grad_y, _ = IqePairwiseBackward.apply(
                grad.flatten(0, 1), x, y, largest, weight, dim_per_component, reduction, False, backend
            )
            return grad_x.unflatten(0, (size, -1)), grad_y.unflatten(0, (size, -1))

        if in_dims[4] is None:
            grad_x, grad_y = gradients(grad_out, max_weight, reduction)
        else:
            of_mean = gradients(grad_out, None, "mean")
            of_spread = gradients(grad_out * max_weight.reshape(-1, 1, 1, 1), None, "spread")
            grad_x, grad_y = of_mean[0] + of_spread[0], of_mean[1] + of_spread[1]
        if not need_weight_gradient:
            return (grad_x, grad_y, x.new_zeros(0)), (0, 0, None)
        spread = _spread(x, y, dim_per_component, backend).unflatten(0, (size, -1))
        return (grad_x, grad_y, (grad_out * spread).flatten(1).sum(dim=1)), (0, 0, 0)

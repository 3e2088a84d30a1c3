"""One way to make an op that torch differentiates: a kernel, a gradient kernel and a formula become autograd.Functions.

An op takes tensors, of which the first decides dtype and device, and settings, a tuple of numbers and strings. Its
kernels do forward and backward. What is rarer follows from plain PyTorch, which the kernels are tested against:

* with ``gradient``, the formula of the gradient, from what backward has: forward mode, derivatives of the gradient to
  any order, and torch.func's transforms, in which the kernels still do forward and backward;
* with ``plain``, the op's results: transforms and derivatives of derivatives are those of plain PyTorch.

There are two roads. `_recorded` is a Function with nothing but forward and backward, for eager autograd, which keeps
what backward needs in the context, and for torch.compile. `_transformed` is one with all that torch.func and forward
mode ask for, and costs more than a small kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling

from ..backends import dispatch
from .registration import Kernel
from .torch_internals import direct_apply, in_function_transform, is_ordinary, is_ordinary_gradient

Tensors = tuple[Tensor | None, ...]

# Values of pairs of rows, N * M * D, of which a formula in plain PyTorch computes at once.
_VALUES_AT_ONCE = 2**21


# What a Function needs beside tensors: the op, its forward and backward function on the backend (None: the ops run
# through torch's dispatcher), settings, and the backend's name.
Call = tuple["Op", tuple[Callable, Callable] | None, tuple, str]


def _backward(run: Callable, grad: Tensor, saved: Tensors, settings: tuple, needs: tuple[bool, ...]):
    return run(grad, *saved, *settings)


def _inputs(tensors: Tensors, outputs: tuple[Tensor, ...]) -> Tensors:
    return tensors


@dataclass(frozen=True, eq=False)
class Op:
    """An op: `op(tensors, settings, backend)` runs it and returns its result, or a tuple where there are several.

    name               of the Functions, in graphs and profiles.
    forward_kernel, backward_kernel   what does the work.
    gradient           ``(grad, *saved, *settings)`` to one gradient a tensor, in plain PyTorch; a gradient of what may
                       be None is then None. Linear in ``grad``.
    plain              in place of it: ``(*tensors, *settings)`` to the results, in plain PyTorch.
    keeps              whether the forward kernel has a last argument ``keep``: what is kept for backward, which follows
                       the results among its outputs, is wanted. The first result is differentiable.
    saved              ``(tensors, outputs)`` to what backward needs; else the tensors.
    backward           ``(run, grad, saved, settings, needs)`` to one gradient a tensor, None where the tensor is None.
    num_results        how many of the outputs are returned.
    parameter          which of the tensors is not rows but one for all rows, or, with a dimension in front, one for
                       each of equal runs of rows; its place among ``saved`` is the same. It may be None.
    parameter_dims     the dimensions of one.
    pairwise           whether the first two tensors are (B, N, ...) and (B, M, ...), outputs (B, N, M, ...).
    kept_derivative    which kept output, where there is a parameter, is the derivative of the result by it: for
                       derivatives of the parameter's gradient it is differentiable, too.
    kept_gradient      ``(grad, *saved, *settings)`` to the gradients of that output, by plain PyTorch.
    """

    name: str
    forward_kernel: Kernel
    backward_kernel: Kernel
    gradient: Callable | None = None
    plain: Callable | None = None
    saved: Callable = _inputs
    backward: Callable = _backward
    num_results: int = 1
    keeps: bool = False
    parameter: int | None = None
    parameter_dims: int = 0
    pairwise: bool = False
    kept_derivative: int | None = None
    kept_gradient: Callable | None = None
    _names: tuple[str, str] = field(init=False)
    _recorded: type[Function] = field(init=False)
    _apply_recorded: Callable = field(init=False)
    _transformed: type[Function] | None = field(init=False)

    def __post_init__(self) -> None:
        backward = None if self.gradient is None else _backward_function(self)
        recorded = _recorded_function(self, backward)
        object.__setattr__(self, "_names", (self.forward_kernel.name, self.backward_kernel.name))
        object.__setattr__(self, "_recorded", recorded)
        object.__setattr__(self, "_apply_recorded", direct_apply(recorded))
        object.__setattr__(self, "_transformed", None if backward is None else _transformed_function(self, backward))

    def __call__(self, tensors: Tensors, settings: tuple, backend: str):
        functions, apply = None, self._apply_recorded
        if is_compiling():
            apply = self._recorded.apply
        elif is_ordinary(tensors):
            functions = dispatch.functions(self.forward_kernel.op, self._names, tensors[0].device, backend)
        elif in_function_transform():
            if self._transformed is None:
                return self.plain(*tensors, *settings)
            return self._results(self._transformed.apply((self, None, settings, backend), *tensors))
        call = self, functions, settings, backend
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    outputs = apply(call, *tensors)
                    return self._results(outputs) if type(outputs) is tuple else outputs
        return self._results(_run_forward(call, tensors, keep=False))

    def _results(self, outputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if type(outputs) is not tuple:
            return outputs
        return outputs[0] if self.num_results == 1 else outputs[: self.num_results]


def _run_forward(call: Call, tensors: Tensors, keep: bool) -> Tensor | tuple[Tensor, ...]:
    op, functions, settings, backend = call
    run = op.forward_kernel.through_torch(backend) if functions is None else functions[0]
    return run(*tensors, *settings, keep) if op.keeps else run(*tensors, *settings)


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _recorded_function(op: Op, differentiable_backward: type[Function] | None) -> type[Function]:
    """The Function of eager autograd and torch.compile."""

    class Recorded(Function):
        @staticmethod
        def forward(ctx, call, *tensors):
            op = call[0]  # not of the closure: torch.compile of older torch does not trace objects from there
            outputs = _run_forward(call, tensors, True)
            ctx.call = call
            if type(outputs) is not tuple:
                ctx.save_for_backward(*op.saved(tensors, (outputs,)))
                return outputs
            ctx.save_for_backward(*op.saved(tensors, outputs))
            if op.kept_derivative is not None:
                parameter = tensors[op.parameter]
                # Not for torch.compile, whose backward passes are not differentiated again.
                if parameter is not None and parameter.requires_grad and not is_compiling():
                    ctx.set_materialize_grads(False)
                    return outputs[0], outputs[op.kept_derivative]
            if op.num_results == 1:
                return outputs[0]
            ctx.set_materialize_grads(False)
            results = outputs[: op.num_results]
            ctx.mark_non_differentiable(*results[1:])
            return results

        @staticmethod
        def backward(ctx, grad, *grads_of_others):
            op, functions, settings, backend = call = ctx.call
            saved, needs = ctx.saved_tensors, ctx.needs_input_grad[1:]
            of_kept = op.kept_derivative is not None and grads_of_others and grads_of_others[-1] is not None
            if of_kept or torch.is_grad_enabled():
                return None, *differentiated(call, saved, needs, grad, *grads_of_others)
            if functions is not None and grad is not None and is_ordinary_gradient(grad):
                return None, *op.backward(functions[1], grad, saved, settings, needs)
            if in_function_transform():
                return None, *differentiated(call, saved, needs, grad, *grads_of_others)
            if grad is None:
                return None, *(None,) * len(needs)
            return None, *op.backward(op.backward_kernel.through_torch(backend), grad, saved, settings, needs)

    def differentiated(call, saved, needs, grad, *grads_of_others):
        """The gradients as functions of what they depend on, for their own derivatives."""
        if op.plain is not None:
            return _of_plain(op, call[2], saved, needs, grad)
        return _of_formula(op, differentiable_backward, call, saved, needs, grad, *grads_of_others)

    return type(op.name, (Recorded,), {})


def _of_plain(op: Op, settings: tuple, saved: Tensors, needs: tuple[bool, ...], grad: Tensor | None) -> list:
    tensors = saved[: len(needs)]
    if grad is None:
        return [None] * len(needs)
    wanted = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    result = op.plain(*tensors, *settings)
    result = result if isinstance(result, Tensor) else result[0]
    found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needs]


def _of_formula(
    op: Op, backward: type[Function], call: Call, saved: Tensors, needs: tuple[bool, ...], grad: Tensor | None, *others
) -> list[Tensor | None]:
    """The gradients from those of the result and, where it is differentiable, of a kept output, the last of others."""
    _, _, settings, backend_name = call
    grads: list[Tensor | None] = [None] * len(needs)
    if grad is not None:
        grads = list(backward.apply((op, None, settings, backend_name), needs, grad, *saved))
    if op.kept_derivative is not None and others and others[-1] is not None:
        more = op.kept_gradient(others[-1], *saved, *settings)
        grads = [b if a is None else a if b is None else a + b for a, b in zip(grads, more, strict=True)]
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]


def _transformed_function(op: Op, backward_function: type[Function]) -> type[Function]:
    """The Function of torch.func and forward mode; it returns all that the forward kernel does."""

    class Transformed(Function):
        @staticmethod
        def forward(call, *tensors):
            return _as_tuple(_run_forward(call, tensors, keep=True))

        @staticmethod
        def setup_context(ctx, inputs, outputs):
            ctx.call, *tensors = inputs
            ctx.shape = outputs[0].shape
            ctx.kept = op.kept_derivative if op.parameter is None or tensors[op.parameter] is not None else None
            ctx.mark_non_differentiable(*(out for i, out in enumerate(outputs) if i not in (0, ctx.kept)))
            ctx.set_materialize_grads(False)
            ctx.num_outputs = len(outputs)
            saved = op.saved(tuple(tensors), outputs)
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx, grad, *others):
            kept = () if ctx.kept is None else (others[ctx.kept - 1],)
            needs = ctx.needs_input_grad[1:]
            return None, *_of_formula(op, backward_function, ctx.call, ctx.saved_tensors, needs, grad, *kept)

        @staticmethod
        def jvp(ctx, _, *tangents):
            settings, parameter = ctx.call[2], op.parameter

            def tangent_of(gradient, block):
                saved = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(ctx.saved_tensors)]
                given = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(tangents)]
                given = [tangent for i, tangent in enumerate(given) if i != parameter or saved[i] is not None]
                like = next(tensor for tensor in saved if tensor is not None and tensor.is_floating_point())
                shape = ctx.shape if block is None else (ctx.shape[0], saved[0].shape[1], *ctx.shape[2:])

                # A gradient is linear in that of the output, and its transpose takes tangents to the output's tangent.
                def formula(grad):
                    return tuple(each for each in gradient(grad, *saved, *settings) if each is not None)

                grads, transposed = torch.func.vjp(formula, like.new_zeros(shape))
                return transposed(tuple(map(_or_zeros, given, grads)))[0]

            found, blocks = [None] * ctx.num_outputs, _row_blocks(op, ctx.saved_tensors)
            found[0] = _joined(op, 0, [tangent_of(op.gradient, block) for block in blocks])
            if ctx.kept is not None:
                found[ctx.kept] = _joined(op, 0, [tangent_of(op.kept_gradient, block) for block in blocks])
            return tuple(found)

        @staticmethod
        def vmap(info, in_dims, call, *tensors):
            _, *dims = in_dims
            size, run = info.batch_size, Transformed.apply
            tensors, one_each = _one_parameter_each(op, tensors, dims, size)
            if not op.pairwise:
                outputs = run(call, *_batch_first(op, tensors, dims, size))
                return outputs, tuple(None if out.shape == (0,) else 0 for out in outputs)
            x, y, *rest = tensors
            if one_each:
                x, y = _batch_first(op, (x, y), dims[:2], size)
                place, x, y = 0, x.flatten(0, 1), y.flatten(0, 1)
            elif dims[1] is None:  # more rows of x against the same y
                place, x = 1, x.movedim(dims[0], 1).flatten(1, 2)
            elif dims[0] is None:  # more rows of y for the same x
                place, y = 2, y.movedim(dims[1], 1).flatten(1, 2)
            else:
                place, x, y = 0, x.movedim(dims[0], 0).flatten(0, 1), y.movedim(dims[1], 0).flatten(0, 1)
            outputs = run(call, x, y, *rest)
            unfolded = (
                out if out.shape == (0,) else out.unflatten(place, (size, -1) if out.shape[place] else (size, 0))
                for out in outputs
            )
            return tuple(unfolded), tuple(None if out.shape == (0,) else place for out in outputs)

    Transformed = type(f"{op.name}Transformed", (Transformed,), {})
    return Transformed


def _backward_function(op: Op) -> type[Function]:
    """The gradient kernel as a Function, ``(call, needs, grad, *saved)`` to the gradients; (0,) for one not needed."""

    class Backward(Function):
        @staticmethod
        def forward(call, needs, grad, *saved):
            _, _, settings, backend = call
            run = op.backward_kernel.through_torch(backend)
            grads = _as_tuple(op.backward(run, grad, saved, settings, needs))
            return tuple(grad.new_zeros(0) if each is None else each for each in grads)

        @staticmethod
        def setup_context(ctx, inputs, outputs):
            ctx.call, ctx.needs, *tensors = inputs
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx, *tangents):
            found = []
            for block in _row_blocks(op, ctx.saved_tensors[1:]):
                formula, places, floats = _formula(op, ctx, block)
                out, transposed = torch.func.vjp(formula, *floats)
                given = (_rows_of(op, i, tangent, block) for i, tangent in enumerate(tangents))
                found.append(transposed(tuple(map(_or_zeros, given, out))))
            grads = [None] * len(ctx.saved_tensors)
            for place, parts in zip(places, zip(*found, strict=True), strict=True):
                grads[place] = _joined(op, place - 1, parts)
            return None, None, *grads

        @staticmethod
        def jvp(ctx, _call, _needs, *tangents):
            found = []
            for block in _row_blocks(op, ctx.saved_tensors[1:]):
                formula, places, floats = _formula(op, ctx, block)
                given = (_rows_of(op, place - 1, tangents[place], block) for place in places)
                filled = tuple(map(_or_zeros, given, floats))
                out, transposed = torch.func.vjp(formula, *floats)
                # The derivative by forward mode as the transpose of the transpose.
                _, twice = torch.func.vjp(transposed, tuple(torch.zeros_like(part) for part in out))
                found.append(twice(filled)[0])
            return tuple(_joined(op, i, parts) for i, parts in enumerate(zip(*found, strict=True)))

        @staticmethod
        def vmap(info, in_dims, call, needs, grad, *saved):
            size, dims, place, run = info.batch_size, in_dims[2:], op.parameter, Backward.apply
            needs_parameter = place is not None and needs[place]
            given = saved
            saved, _ = _one_parameter_each(op, saved, dims[1:], size, always=needs_parameter)
            grad, *saved = _batch_first(op, (grad, *saved), dims, size, offset=1)
            if op.pairwise:
                batch = grad.shape[1]
                grad, *saved = (
                    t if t is None or i == place or t.shape == (0,) else t.flatten(0, 1)
                    for i, t in enumerate((grad, *saved), start=-1)
                )
            grads = list(run(call, needs, grad, *saved))
            if op.pairwise:
                for i, each in enumerate(grads):
                    if i != place and each.shape != (0,):
                        grads[i] = each.unflatten(0, (size, batch))
            if needs_parameter:
                one, dim = given[place], dims[place + 1]
                grads[place] = grads[place].reshape(size, *(one if dim is None else one.select(dim, 0)).shape)
            return tuple(grads), tuple(None if each.shape == (0,) else 0 for each in grads)

    Backward = type(f"{op.name}Backward", (Backward,), {})
    return Backward


def _formula(op: Op, ctx, block: slice | None) -> tuple[Callable, list[int], list[Tensor]]:
    """The gradient formula, for a block of rows of x, as a function of the float tensors among (grad, *saved), their
    places, and they."""
    tensors = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(ctx.saved_tensors, start=-1)]
    settings, needs = ctx.call[2], ctx.needs
    places = [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.is_floating_point()]

    def formula(*floats):
        filled = list(tensors)
        for place, value in zip(places, floats, strict=True):
            filled[place] = value
        grads = op.gradient(*filled, *settings)
        wanted = (i != op.parameter or needs[i] for i in range(len(grads)))
        return tuple(
            floats[0].new_zeros(0) if each is None or not want else each
            for each, want in zip(grads, wanted, strict=True)
        )

    return formula, places, [tensors[place] for place in places]


def _row_blocks(op: Op, saved: Tensors) -> list[slice | None]:
    """The rows of x in blocks, of which the formula of a pairwise op is computed one after the other, so that nothing
    of size N x M x D exists; None for all at once."""
    if not op.pairwise:
        return [None]
    x, y, *_ = saved
    if x.shape[1] * y.numel() <= _VALUES_AT_ONCE:
        return [None]
    rows = max(_VALUES_AT_ONCE // y.numel(), 1)
    return [slice(first, first + rows) for first in range(0, x.shape[1], rows)]


def _is_of_all_rows(op: Op, place: int) -> bool:
    """Whether a tensor, by its place among those saved or their gradients, is y or a parameter."""
    return place == 1 or place == op.parameter


def _rows_of(op: Op, place: int, tensor: Tensor | None, block: slice | None) -> Tensor | None:
    if block is None or tensor is None or tensor.shape == (0,) or _is_of_all_rows(op, place):
        return tensor
    return tensor[:, block]


def _joined(op: Op, place: int, parts: Sequence[Tensor]) -> Tensor:
    """A tensor, or its gradient or tangent, from those of blocks."""
    if len(parts) == 1:
        return parts[0]
    return sum(parts) if _is_of_all_rows(op, place) else torch.cat(parts, dim=1)


def _or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tangent is None else tangent


def _batch_first(op: Op, tensors: Tensors, dims: list, size: int, offset: int = 0) -> list[Tensor | None]:
    """The vmapped dimension of rows in front; rows without one are expanded. ``offset`` tensors come before."""
    found = []
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        if tensor is None or i - offset == op.parameter or tensor.shape == (0,):
            found.append(tensor)
        else:
            found.append(tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0))
    return found


def _one_parameter_each(op: Op, tensors: Tensors, dims: list, size: int, always: bool = False) -> tuple[Tensors, bool]:
    """The tensors with a parameter of its own for each sample of the vmapped dimension, in front of those of runs of
    rows, and whether it is so: where samples have their own, where a sample has several, and ``always``."""
    place = op.parameter
    parameter = None if place is None else tensors[place]
    if parameter is None:
        return tensors, False
    dim = dims[place]
    if dim is None and parameter.dim() == op.parameter_dims and not always:
        return tensors, False
    parameter = parameter.expand(size, *parameter.shape) if dim is None else parameter.movedim(dim, 0)
    if parameter.dim() > op.parameter_dims + 1:
        parameter = parameter.flatten(0, 1)
    return (*tensors[:place], parameter, *tensors[place + 1 :]), True


def every_pair_gradient(gradient: Callable) -> Callable:
    """The gradient of all pairs of rows from that of matching rows: (B, N, D) and (B, M, D) in place of (..., D)."""

    def of_pairs(grad_out, x, y, *others):
        grad_x, grad_y, *rest = gradient(grad_out, x.unsqueeze(2), y.unsqueeze(1), *others)
        return grad_x.sum(dim=2), grad_y.sum(dim=1), *rest

    return of_pairs

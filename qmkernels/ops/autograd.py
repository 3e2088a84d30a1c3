"""Makes ops that torch differentiates: autograd.Functions from a kernel, a gradient kernel and a formula.

An op takes tensors, of which the first decides dtype and device, and settings, a tuple of numbers and strings. Its
kernels do forward and backward. Everything rarer comes from plain PyTorch, against which the kernels are tested:

* Forward mode and derivatives of the gradient, to any order, come from ``gradient``, the gradient's formula in terms of
  what backward has, or without one, for losses, from ``plain``, which computes the op's results. Kernels do forward and
  backward in torch.func's transforms too; under vmap those of a loss run once per sample.
* Where torch.compile traces a torch.func.grad, or a vmap with gradients, everything comes from ``plain``.

There are two Functions. `_recorded` has only forward and backward, for eager autograd and torch.compile, and keeps what
backward needs in its context. `_transformed` has all that torch.func and forward mode need, and costs more than a small
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling

from ..backends import dispatch
from ..definitions.dtypes import in_compute_dtype
from .registration import Kernel
from .torch_internals import (
    apply_here,
    direct_apply,
    in_compiled_derivative,
    in_function_transform,
    is_ordinary,
    is_ordinary_gradient,
)

Tensors = tuple[Tensor | None, ...]

# Values of pairs of rows, N * M * D, that a formula in plain PyTorch computes at once.
_VALUES_AT_ONCE = 2**21


# A Function's arguments other than tensors: the op, its forward and backward function on the backend (None: the ops run
# through torch's dispatcher), the settings, and the backend's name.
Call = tuple["Op", tuple[Callable, Callable] | None, tuple, str]


def _backward(run: Callable, grad: Tensor, saved: Tensors, settings: tuple, needs: tuple[bool, ...]):
    return run(grad, *saved, *settings)


def _inputs(tensors: Tensors, outputs: tuple[Tensor, ...]) -> Tensors:
    return tensors


@dataclass(frozen=True, eq=False)
class Op:
    """An op: `op(tensors, settings, backend)` runs it and returns its result, or a tuple of several.

    name               of the Functions, in graphs and profiles.
    forward_kernel, backward_kernel   do the work.
    gradient           maps ``(grad, *saved, *settings)`` to one gradient per tensor, in plain PyTorch; None for a
                       tensor that is None. Linear in ``grad``. Without it the op is a loss: its first result is a
                       scalar of all rows, and ``saved`` begins with the tensors.
    plain              maps ``(*tensors, *settings)`` to the results, in plain PyTorch.
    keeps              whether the forward kernel has a last argument ``keep``, which asks for the outputs that backward
                       needs, after the results. The first result is differentiable.
    saved              maps ``(tensors, outputs)`` to what backward needs; default: the tensors.
    backward           maps ``(run, grad, saved, settings, needs)`` to one gradient per tensor, None if the tensor is.
    num_results        how many of the outputs are returned.
    parameter          index of the tensor that is shared by all rows or, with a leading dimension, one per equal run of
                       rows; its index in ``saved`` is the same. It may be None.
    parameter_dims     number of dimensions of one parameter.
    pairwise           whether the first two tensors are (B, N, ...) and (B, M, ...), and outputs (B, N, M, ...).
    fixed              indices of the tensors of a loss by which the backward kernel has no derivative; callers compute
                       by ``plain`` where one requires a gradient, which in torch.func's transforms is seen only here.
    kept_derivative    index of the kept output that is the derivative of the result by the parameter, if there is one.
                       It is differentiable too, for derivatives of the parameter's gradient.
    kept_gradient      maps ``(grad, *saved, *settings)`` to the gradients of that output, in plain PyTorch.
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
    fixed: tuple[int, ...] = ()
    kept_derivative: int | None = None
    kept_gradient: Callable | None = None
    _names: tuple[str, str] = field(init=False)
    _recorded: type[Function] = field(init=False)
    _apply_recorded: Callable = field(init=False)
    _transformed: type[Function] = field(init=False)

    def __post_init__(self) -> None:
        backward = _backward_function(self)
        recorded = _recorded_function(self, backward)
        object.__setattr__(self, "_names", (self.forward_kernel.name, self.backward_kernel.name))
        object.__setattr__(self, "_recorded", recorded)
        object.__setattr__(self, "_apply_recorded", direct_apply(recorded))
        object.__setattr__(self, "_transformed", _transformed_function(self, backward))

    def __call__(self, tensors: Tensors, settings: tuple, backend: str):
        functions, apply = None, self._apply_recorded
        if is_compiling():
            if in_compiled_derivative():
                return self._in_plain_torch(_in_compute_dtype(tensors), settings)
            apply = self._recorded.apply
        elif is_ordinary(tensors):
            functions = dispatch.functions(self.forward_kernel.op, self._names, tensors[0].device, backend)
        elif in_function_transform():
            tensors = _in_compute_dtype(tensors)
            return self._results(self._transformed.apply((self, None, settings, backend), *tensors))
        call = self, functions, settings, backend
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    outputs = apply(call, *tensors)
                    return self._results(outputs) if type(outputs) is tuple else outputs
        return self._results(_run_forward(call, tensors, keep=False))

    def _in_plain_torch(self, tensors: Tensors, settings: tuple) -> Tensor | tuple[Tensor, ...]:
        if self.plain is None:
            raise RuntimeError(
                f"{self.forward_kernel.op}: torch.compile does not trace it within torch.func.grad or vmap; call it "
                "outside of the compiled function."
            )
        return self.plain(*tensors, *settings)

    def _results(self, outputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if type(outputs) is not tuple:
            return outputs
        return outputs[0] if self.num_results == 1 else outputs[: self.num_results]


def _run_forward(call: Call, tensors: Tensors, keep: bool) -> Tensor | tuple[Tensor, ...]:
    op, functions, settings, backend = call
    run = op.forward_kernel.through_torch(backend) if functions is None else functions[0]
    return run(*tensors, *settings, keep) if op.keeps else run(*tensors, *settings)


def _in_compute_dtype(tensors: Tensors) -> Tensors:
    """Converts tensors in half precision, by which only kernels differentiate without conversion."""
    return tuple(None if tensor is None else in_compute_dtype(tensor) for tensor in tensors)


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _recorded_function(op: Op, differentiable_backward: type[Function]) -> type[Function]:
    """Makes the Function for eager autograd and torch.compile."""

    class Recorded(Function):
        @staticmethod
        def forward(ctx, call, *tensors):
            op = call[0]  # not from the closure, whose objects torch.compile of older torch does not trace
            outputs = _run_forward(call, tensors, True)
            ctx.call = call
            if type(outputs) is not tuple:
                ctx.save_for_backward(*op.saved(tensors, (outputs,)))
                return outputs
            ctx.save_for_backward(*op.saved(tensors, outputs))
            if op.kept_derivative is not None:
                parameter = tensors[op.parameter]
                # Not under torch.compile, whose backward passes are never differentiated again.
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
                return None, *_of_formula(op, differentiable_backward, call, saved, needs, grad, *grads_of_others)
            if functions is not None and grad is not None and is_ordinary_gradient(grad):
                return None, *op.backward(functions[1], grad, saved, settings, needs)
            if in_function_transform():
                return None, *_of_formula(op, differentiable_backward, call, saved, needs, grad, *grads_of_others)
            if grad is None:
                return None, *(None,) * len(needs)
            return None, *op.backward(op.backward_kernel.through_torch(backend), grad, saved, settings, needs)

    return type(op.name, (Recorded,), {})


def _gradient(op: Op, grad: Tensor, saved: Sequence[Tensor | None], settings: tuple, count: int) -> Tensors:
    """Returns the gradients by the ``count`` tensors in plain PyTorch; None by those that are None or whole numbers."""
    if op.gradient is not None:
        return op.gradient(grad, *saved, *settings)
    tensors = saved[:count]
    places = [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.is_floating_point()]

    def loss(*given):
        given = dict(zip(places, given, strict=True))
        return op.plain(*(given.get(i, tensors[i]) for i in range(count)), *settings)[0]

    _, transposed = torch.func.vjp(loss, *(tensors[i] for i in places))
    grads = dict(zip(places, transposed(grad), strict=True))
    return tuple(grads.get(i) for i in range(count))


def _of_formula(
    op: Op, backward: type[Function], call: Call, saved: Tensors, needs: tuple[bool, ...], grad: Tensor | None, *others
) -> list[Tensor | None]:
    """Returns the gradients, given the result's and, last in others, a differentiable kept output's; by tensors in half
    precision in float32, which autograd converts."""
    _, _, settings, backend_name = call
    saved = _in_compute_dtype(saved)
    grads: Sequence[Tensor | None] = [None] * len(needs)
    if grad is not None and any(needs[i] for i in op.fixed):
        grads = _gradient(op, grad, saved, settings, len(needs))
    elif grad is not None:
        grads = apply_here(backward)((op, None, settings, backend_name), needs, grad, *saved)
    grads = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    if op.kept_derivative is not None and others and others[-1] is not None:
        more = op.kept_gradient(others[-1], *saved, *settings)
        grads = [b if a is None else a if b is None else a + b for a, b in zip(grads, more, strict=True)]
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]


def _transformed_function(op: Op, backward_function: type[Function]) -> type[Function]:
    """Makes the Function for torch.func and forward mode, which returns all outputs of the forward kernel."""

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
            ctx.num_outputs, ctx.given = len(outputs), [tensor is not None for tensor in tensors]
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
            settings = ctx.call[2]

            def tangent_of(gradient, block):
                saved = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(ctx.saved_tensors)]
                parts = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(tangents) if ctx.given[i]]
                like = next(tensor for tensor in saved if tensor is not None and tensor.is_floating_point())
                shape = ctx.shape if block is None else (ctx.shape[0], saved[0].shape[1], *ctx.shape[2:])

                # A gradient is linear in the output's gradient; its transpose maps tangents to the output's tangent.
                def formula(grad):
                    return tuple(value for value in gradient(grad, saved) if value is not None)

                grads, transposed = torch.func.vjp(formula, like.new_zeros(shape))
                return transposed(tuple(map(_or_zeros, parts, grads)))[0]

            def of_result(grad, saved):
                return _gradient(op, grad, saved, settings, len(tangents))

            def of_kept(grad, saved):
                return op.kept_gradient(grad, *saved, *settings)

            outputs, blocks = [None] * ctx.num_outputs, _row_blocks(op, ctx.saved_tensors)
            outputs[0] = _joined(op, 0, [tangent_of(of_result, block) for block in blocks])
            if ctx.kept is not None:
                outputs[ctx.kept] = _joined(op, 0, [tangent_of(of_kept, block) for block in blocks])
            return tuple(outputs)

        @staticmethod
        def vmap(info, in_dims, call, *tensors):
            _, *dims = in_dims
            size, run = info.batch_size, apply_here(Transformed)
            if op.gradient is None:
                return _one_by_one(lambda *sample: run(call, *sample), tensors, dims, size)
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
    """Makes a Function of the gradient kernel, ``(call, needs, grad, *saved)`` to the gradients; (0,) if not needed."""

    class Backward(Function):
        @staticmethod
        def forward(call, needs, grad, *saved):
            _, _, settings, backend = call
            run = op.backward_kernel.through_torch(backend)
            return _needed(_as_tuple(op.backward(run, grad, saved, settings, needs)), needs)

        @staticmethod
        def setup_context(ctx, inputs, outputs):
            ctx.call, ctx.needs, *tensors = inputs
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx, *tangents):
            of_blocks = []
            for block in _row_blocks(op, ctx.saved_tensors[1:]):
                formula, places, floats = _formula(op, ctx, block)
                out, transposed = torch.func.vjp(formula, *floats)
                parts = (_rows_of(op, i, tangent, block) for i, tangent in enumerate(tangents))
                of_blocks.append(transposed(tuple(map(_or_zeros, parts, out))))
            grads = [None] * len(ctx.saved_tensors)
            for place, parts in zip(places, zip(*of_blocks, strict=True), strict=True):
                grads[place] = _joined(op, place - 1, parts)
            return None, None, *grads

        @staticmethod
        def jvp(ctx, _call, _needs, *tangents):
            of_blocks = []
            for block in _row_blocks(op, ctx.saved_tensors[1:]):
                formula, places, floats = _formula(op, ctx, block)
                parts = (_rows_of(op, place - 1, tangents[place], block) for place in places)
                filled = tuple(map(_or_zeros, parts, floats))
                out, transposed = torch.func.vjp(formula, *floats)
                # Forward mode is the transpose of the transpose.
                _, twice = torch.func.vjp(transposed, tuple(torch.zeros_like(part) for part in out))
                of_blocks.append(twice(filled)[0])
            return tuple(_joined(op, i, parts) for i, parts in enumerate(zip(*of_blocks, strict=True)))

        @staticmethod
        def vmap(info, in_dims, call, needs, grad, *saved):
            size, dims, place, run = info.batch_size, in_dims[2:], op.parameter, apply_here(Backward)
            if op.gradient is None:
                return _one_by_one(lambda *sample: run(call, needs, *sample), (grad, *saved), dims, size)
            needs_parameter = place is not None and needs[place]
            parameter = None if place is None else saved[place]
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
                for i, value in enumerate(grads):
                    if i != place and value.shape != (0,):
                        grads[i] = value.unflatten(0, (size, batch))
            if needs_parameter:
                dim = dims[place + 1]
                sample = parameter if dim is None else parameter.select(dim, 0)
                grads[place] = grads[place].reshape(size, *sample.shape)
            return tuple(grads), tuple(None if value.shape == (0,) else 0 for value in grads)

    Backward = type(f"{op.name}Backward", (Backward,), {})
    return Backward


def _formula(op: Op, ctx, block: slice | None) -> tuple[Callable, list[int], list[Tensor]]:
    """Returns the gradient formula for a block of rows of x, as a function of the float tensors among (grad, *saved),
    and the indices and values of those tensors."""
    tensors = [_rows_of(op, i, tensor, block) for i, tensor in enumerate(ctx.saved_tensors, start=-1)]
    settings, needs = ctx.call[2], ctx.needs
    places = [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.is_floating_point()]

    def formula(*floats):
        filled = list(tensors)
        for place, value in zip(places, floats, strict=True):
            filled[place] = value
        grad, *saved = filled
        grads = _gradient(op, grad, saved, settings, len(needs))
        return _needed(grads, needs)

    return formula, places, [tensors[place] for place in places]


def _needed(grads: Tensors, needs: tuple[bool, ...]) -> tuple[Tensor, ...]:
    """Returns the gradients, with (0,) in place of those that are None or not needed."""
    like = next(grad for grad in grads if grad is not None)
    return tuple(
        like.new_zeros(0) if grad is None or not need else grad for grad, need in zip(grads, needs, strict=True)
    )


def _row_blocks(op: Op, saved: Tensors) -> list[slice | None]:
    """Splits the rows of x into blocks, so that the formula of a pairwise op, computed block by block, makes nothing of
    size N x M x D; None means all rows at once."""
    if not op.pairwise:
        return [None]
    x, y, *_ = saved
    if x.shape[1] * y.numel() <= _VALUES_AT_ONCE:
        return [None]
    rows = max(_VALUES_AT_ONCE // y.numel(), 1)
    return [slice(first, first + rows) for first in range(0, x.shape[1], rows)]


def _is_of_all_rows(op: Op, place: int) -> bool:
    """Returns whether the saved tensor at this index, or its gradient, is y or a parameter."""
    return place == 1 or place == op.parameter


def _rows_of(op: Op, place: int, tensor: Tensor | None, block: slice | None) -> Tensor | None:
    if block is None or tensor is None or tensor.shape == (0,) or _is_of_all_rows(op, place):
        return tensor
    return tensor[:, block]


def _joined(op: Op, place: int, parts: Sequence[Tensor]) -> Tensor:
    """Joins the blocks of a tensor, gradient or tangent."""
    if len(parts) == 1:
        return parts[0]
    return sum(parts) if _is_of_all_rows(op, place) else torch.cat(parts, dim=1)


def _or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tangent is None else tangent


def _one_by_one(run: Callable, tensors: Tensors, dims: tuple, size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Runs each sample of the vmapped dimension and stacks the results; also returns their vmapped dimensions."""
    # unbind, not select: the gradient of a selection is as large as the whole tensor.
    samples = [
        (tensor,) * size if tensor is None or dim is None else tensor.unbind(dim)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    results = [run(*sample) for sample in zip(*samples, strict=True)]
    outputs = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs, (0,) * len(outputs)


def _batch_first(op: Op, tensors: Tensors, dims: list, size: int, offset: int = 0) -> list[Tensor | None]:
    """Moves the vmapped dimension of rows to the front, or expands rows that have none. ``offset`` tensors precede."""
    moved = []
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        if tensor is None or i - offset == op.parameter or tensor.shape == (0,):
            moved.append(tensor)
        else:
            moved.append(tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0))
    return moved


def _one_parameter_each(op: Op, tensors: Tensors, dims: list, size: int, always: bool = False) -> tuple[Tensors, bool]:
    """Gives each sample of the vmapped dimension its own parameter, ahead of the runs of rows, if samples differ in it,
    a sample has several, or ``always``; returns the tensors and whether it did."""
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


def every_pair_plain(plain: Callable) -> Callable:
    """Makes the distances of all pairs of rows, (B, N, D) and (B, M, D), from those of matching rows, (..., D)."""
    return lambda x, y, *others: plain(x.unsqueeze(2), y.unsqueeze(1), *others)


def every_pair_gradient(gradient: Callable) -> Callable:
    """Makes the gradient for all pairs of rows, (B, N, D) and (B, M, D), from that for matching rows, (..., D)."""

    def of_pairs(grad_out, x, y, *others):
        grad_x, grad_y, *rest = gradient(grad_out, x.unsqueeze(2), y.unsqueeze(1), *others)
        return grad_x.sum(dim=2), grad_y.sum(dim=1), *rest

    return of_pairs

"""Makes ops that torch differentiates: autograd.Functions from a kernel, a gradient kernel and a formula.

An op takes tensors, of which the first decides dtype and device, and settings, a tuple of numbers and strings. Its
kernels do forward and backward. Everything rarer comes from plain PyTorch, against which the kernels are tested:

* Forward mode and derivatives of the gradient, to any order, come from ``gradient``, the gradient's formula in terms of
  what backward has, or without one, for losses, from ``plain``, which computes the op's results. Kernels do forward and
  backward in torch.func's transforms too; under vmap those of a loss run once per sample.
* Where torch.compile traces a torch.func.grad, or a vmap with gradients, everything comes from ``plain``.

There are two Functions, made in functions.py. `_recorded` has only forward and backward, for eager autograd and
torch.compile, and keeps what backward needs in its context. `_transformed` has all that torch.func and forward mode
need, and costs more than a small kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling

from ..backends import dispatch
from ..definitions.dtypes import HALF
from .functions import (
    Tensors,
    backward_function,
    recorded_function,
    run_forward,
    tensors_in_compute_dtype,
    transformed_function,
)
from .registration import Kernel
from .torch_internals import direct_apply, in_compiled_derivative, in_function_transform, is_ordinary


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
        backward = backward_function(self)
        recorded = recorded_function(self, backward)
        object.__setattr__(self, "_names", (self.forward_kernel.name, self.backward_kernel.name))
        object.__setattr__(self, "_recorded", recorded)
        object.__setattr__(self, "_apply_recorded", direct_apply(recorded))
        object.__setattr__(self, "_transformed", transformed_function(self, backward))

    def __call__(self, tensors: Tensors, settings: tuple, backend: str):
        functions, apply, first = None, self._apply_recorded, tensors[0]
        if first.dtype in HALF and not dispatch.loads_half(self.forward_kernel.op, first.device.type, backend):
            tensors = tensors_in_compute_dtype(tensors)
        if is_compiling():
            if in_compiled_derivative():
                return self._in_plain_torch(tensors_in_compute_dtype(tensors), settings)
            apply = self._recorded.apply
        elif is_ordinary(tensors):
            functions = dispatch.functions(self.forward_kernel.op, self._names, first.device, backend)
        elif in_function_transform():
            tensors = tensors_in_compute_dtype(tensors)
            return self._results(self._transformed.apply((self, None, settings, backend), *tensors))
        call = self, functions, settings, backend
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    outputs = apply(call, *tensors)
                    return self._results(outputs) if type(outputs) is tuple else outputs
        return self._results(run_forward(call, tensors, keep=False))

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


def every_pair_plain(plain: Callable) -> Callable:
    """Makes the distances of all pairs of rows, (B, N, D) and (B, M, D), from those of matching rows, (..., D)."""
    return lambda x, y, *others: plain(x.unsqueeze(2), y.unsqueeze(1), *others)


def every_pair_gradient(gradient: Callable) -> Callable:
    """Makes the gradient for all pairs of rows, (B, N, D) and (B, M, D), from that for matching rows, (..., D)."""

    def of_pairs(grad_out, x, y, *others):
        grad_x, grad_y, *rest = gradient(grad_out, x.unsqueeze(2), y.unsqueeze(1), *others)
        return grad_x.sum(dim=2), grad_y.sum(dim=1), *rest

    return of_pairs

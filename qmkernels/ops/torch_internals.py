"""What torch is doing around a call, from private names of torch; no other file uses such names.

If a release of torch lacks a name, its value here is None, and the functions give the answer that is always right, at
the price of speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad, profiler
from torch.compiler import is_compiling


def _found(root: object, *path: str):
    """Returns the attribute at the end of ``path``, or None."""
    return reduce(lambda place, name: getattr(place, name, None), path, root)


_transforms = _found(torch._C, "_functorch", "get_interpreter_stack")
_functorch_level = _found(torch._C, "_functorch", "peek_interpreter_stack")
_is_functorch_wrapped = _found(torch._C, "_functorch", "is_functorch_wrapped_tensor")
_is_legacy_batched = _found(torch._C, "_functorch", "is_legacy_batchedtensor")
_num_dispatch_modes = _found(torch._C, "_len_torch_dispatch_stack")
_profiler = profiler if hasattr(profiler, "_is_profiler_enabled") else None
_forward_ad = forward_ad if hasattr(forward_ad, "_current_level") else None
_function_base = super(Function, Function) if hasattr(super(Function, Function), "apply") else None
_is_exporting = _found(torch.compiler, "is_exporting")  # since torch 2.7
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, type(None))


def in_function_transform() -> bool:
    """Returns whether a torch.func transform or forward mode is running; False under torch.compile, which traces it."""
    if is_compiling():
        return False
    if _functorch_level is None or _forward_ad is None:
        return True
    return _functorch_level() is not None or _forward_ad._current_level >= 0


def in_compiled_derivative() -> bool:
    """Returns whether torch.compile traces the function of a torch.func.grad, vjp or jvp, or of a vmap that may be
    differentiated.

    There torch does not differentiate the backward pass of an autograd.Function again, or under vmap the Function
    itself, and says nothing (2.6 to 2.13).
    """
    if _transforms is None:
        return False
    kinds = ("Grad", "Jvp", "Vmap") if torch.is_grad_enabled() else ("Grad", "Jvp")
    return any(transform.key().name in kinds for transform in _transforms() or ())


# As torch.compiler.assume_constant_result does, which imports the whole compiler first: most of the time that
# `import qmkernels` would take.
in_compiled_derivative._dynamo_marked_constant = True


def is_exporting() -> bool:
    """Returns whether torch.export traces a program, in which sizes stay open and parameters are not changed."""
    return _is_exporting is not None and _is_exporting()


def has_plain_tensors() -> bool:
    """Returns whether tensors are real: neither traced by torch.compile nor transformed by torch.func."""
    return not is_compiling() and _functorch_level is not None and _functorch_level() is None


def is_ordinary(tensors: tuple[Tensor | None, ...]) -> bool:
    """Returns whether a kernel may run on the tensors directly, because no mode, transform, subclass or profiler must
    see the call.

    Every call asks this, and the dispatcher takes some 5 us to reach an op written in Python.
    """
    if _num_dispatch_modes is None or _profiler is None or _functorch_level is None or _forward_ad is None:
        return False
    if _num_dispatch_modes() or _profiler._is_profiler_enabled:
        return False
    if _functorch_level() is not None or _forward_ad._current_level >= 0:
        return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN_TYPES:
            return False
    return True


def is_ordinary_gradient(grad: Tensor) -> bool:
    """Returns the same for a gradient, which autograd may have batched: torch.autograd.grad with is_grads_batched."""
    if _is_functorch_wrapped is None or _is_legacy_batched is None:
        return False
    return is_ordinary((grad,)) and not _is_functorch_wrapped(grad) and not _is_legacy_batched(grad)


def records_derivative(*tensors: Tensor | None) -> bool:
    """Returns whether any of the tensors takes part, or may, in backward, forward mode or a torch.func transform."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return in_function_transform() or in_compiled_derivative()


def apply_here(function: type[Function]) -> Callable:
    """Returns ``function.apply`` for calls in the transforms that are running now, if any."""
    return function.apply if is_compiling() or in_function_transform() else direct_apply(function)


def direct_apply(function: type[Function]) -> Callable:
    """Returns ``function.apply`` for calls outside torch.func, without the work that only torch.func needs."""
    return function.apply if _function_base is None else super(Function, function).apply

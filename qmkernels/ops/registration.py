"""Registers the ops of ``torch.ops.qmkernels``: schema, implementation for every device, and shapes for tracing."""

from __future__ import annotations

from collections.abc import Callable

import torch

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_is_functorch_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_library = torch.library.Library("qmkernels", "DEF")


def register(schema: str, implementation: Callable, fake: Callable) -> Callable:
    """Defines ``qmkernels::<schema>``; returns what calls it. ``fake`` returns empty tensors of the right shapes.

    Called on ordinary tensors outside any tracing, the implementation runs at once: the dispatcher's way to one written
    in Python costs some 5 us forward and 10 us in a backward pass.

    The op stands below autograd; autograd.Functions above the ops do the differentiating, because an autograd rule
    registered with the op itself breaks torch.func.grad.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qmkernels::{name}", fake, lib=_library)
    op = getattr(torch.ops.qmkernels, name).default

    def call(*arguments):
        if torch.compiler.is_compiling() or not _ordinary(arguments):
            return op(*arguments)
        return implementation(*arguments)

    return call


def _ordinary(arguments: tuple) -> bool:
    """Whether no mode, transform, subclass or profiler has to see the call. Spelled out: it is on every call's way."""
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return False
    for argument in arguments:
        kind = type(argument)
        if kind in _PLAIN_TYPES:
            if _is_functorch_wrapped(argument) or _is_legacy_batched(argument):
                return False
        elif isinstance(argument, torch.Tensor):
            return False
    return True

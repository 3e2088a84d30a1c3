"""Registers the ops of ``torch.ops.qmkernels``: schema, implementation for every device, and shapes for tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ..backends import dispatch
from .torch_internals import is_ordinary

_library = torch.library.Library("qmkernels", "DEF")


class Kernel:
    """A function that every backend of an op has, and the op of that name in ``torch.ops.qmkernels``.

    The op stands below autograd; autograd.Functions above it do the differentiating (ops/autograd.py), because an
    autograd rule registered with the op itself breaks torch.func.grad.
    """

    def __init__(self, op: str, schema: str, outputs: Callable) -> None:
        """Defines ``qmkernels::<schema>``, whose last argument is the backend. ``outputs``, of the other arguments,
        returns empty tensors of the right shapes."""
        self.op, self.name = op, schema.split("(", 1)[0]
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(self.name, self._on_backend, "CompositeExplicitAutograd")
        torch.library.register_fake(
            f"qmkernels::{self.name}", lambda *arguments: _whole(outputs(*arguments[:-1]), arguments[0]), lib=_library
        )
        self._torch_op = getattr(torch.ops.qmkernels, self.name).default

    def __call__(self, *arguments: Any):
        """Runs with the arguments of the schema."""
        tensors = tuple(value for value in arguments if isinstance(value, Tensor))
        if torch.compiler.is_compiling() or not is_ordinary(tensors):
            return self._torch_op(*arguments)
        return self._on_backend(*arguments)

    def through_torch(self, backend: str) -> Callable:
        """What takes all arguments but the backend and runs the op, for torch to see."""
        return lambda *arguments: self._torch_op(*arguments, backend)

    def _on_backend(self, *arguments: Any):
        *arguments, backend = arguments
        (function,) = dispatch.functions(self.op, (self.name,), arguments[0].device, backend)
        return _whole(function(*arguments), arguments[0])


def _whole(outputs: Any, like: Tensor):
    """The outputs of an op, which are tensors: what is not wanted, None, is empty, of shape (0,)."""
    if isinstance(outputs, tuple):
        return tuple(like.new_empty(0) if each is None else each for each in outputs)
    return outputs


def schema_of(settings: type) -> str:
    """The fields of a NamedTuple of numbers and strings as a part of a schema."""
    return ", ".join(f"{kind.__name__} {name}" for name, kind in get_type_hints(settings).items())

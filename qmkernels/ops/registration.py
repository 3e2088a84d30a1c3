"""Registers the ops of ``torch.ops.qmkernels``: schema, implementation for every device, and shapes for tracing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ..backends import dispatch
from .torch_internals import is_ordinary

_library = torch.library.Library("qmkernels", "DEF")


def register_all() -> None:
    """Imports the modules of all ops, which register them."""
    for op in dispatch.OPS:
        importlib.import_module(f"{__package__}.{op}")


class Kernel:
    """A function that all backends of an op have, registered under the same name in ``torch.ops.qmkernels``.

    It lies below autograd: autograd.Functions on top of it differentiate (ops/autograd.py), because an autograd rule
    registered with the op itself breaks torch.func.grad.
    """

    def __init__(self, op: str, schema: str, outputs: Callable) -> None:
        """Defines ``qmkernels::<schema>``, whose last argument is the backend. ``outputs`` takes the other arguments
        and returns empty tensors of the right shapes."""
        self.op, self.name = op, schema.split("(", 1)[0]
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(self.name, self._on_backend, "CompositeExplicitAutograd")
        torch.library.register_fake(
            f"qmkernels::{self.name}", lambda *arguments: _whole(outputs(*arguments[:-1]), arguments[0]), lib=_library
        )
        self._torch_op = getattr(torch.ops.qmkernels, self.name).default

    def __call__(self, *arguments: Any):
        """Runs the backend's function with the arguments of the schema."""
        tensors = tuple(value for value in arguments if isinstance(value, Tensor))
        if torch.compiler.is_compiling() or not is_ordinary(tensors):
            return self._torch_op(*arguments)
        return self._on_backend(*arguments)

    def through_torch(self, backend: str) -> Callable:
        """Returns a function of all arguments but the backend that runs the op through torch's dispatcher."""
        return lambda *arguments: self._torch_op(*arguments, backend)

    def _on_backend(self, *arguments: Any):
        *arguments, backend = arguments
        (function,) = dispatch.functions(self.op, (self.name,), arguments[0].device, backend)
        return _whole(function(*arguments), arguments[0])


def _whole(outputs: Any, like: Tensor):
    """Returns an op's outputs as tensors: None, for outputs that were not asked for, becomes an empty one, (0,)."""
    if isinstance(outputs, tuple):
        return tuple(like.new_empty(0) if output is None else output for output in outputs)
    return outputs


def schema_of(settings: type) -> str:
    """Returns the fields of a NamedTuple of numbers and strings as part of a schema."""
    return ", ".join(f"{kind.__name__} {name}" for name, kind in get_type_hints(settings).items())
